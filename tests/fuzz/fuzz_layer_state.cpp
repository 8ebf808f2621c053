// SPDX-License-Identifier: MIT
#include <gma/layer/layer_state.hpp>

#include "saved.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  gma::LayerState<float> state;
  state.memories.assign(2, gma::empty_memory<float>(2, 1));
  state.history = gma::Matrix<float>::Constant(1, 3, 2.0f);
  state.window_keys = state.window_values = gma::Matrix<float>::Constant(2, 1, 3.0f);
  state.position = 5;
  check_loads(state, data, size);
  return 0;
}
