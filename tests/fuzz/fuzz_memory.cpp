// SPDX-License-Identifier: MIT
#include <gma/attention/memory.hpp>

#include "saved.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  gma::Memory<float> memory = gma::empty_memory<float>(2, 3);
  memory.slots.setConstant(3);
  memory.mass.setConstant(5);
  memory.log_forgetting = -7;
  check_loads(memory, data, size);
  return 0;
}
