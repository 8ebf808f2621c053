// SPDX-License-Identifier: MIT
//
// What a stream costs: its state, and the rates of reading a context and of the tokens after it, on one thread.
#pragma once

#include "model.hpp"
#include "transformer/progress.hpp"

namespace language_model {

struct StreamCost {
  Index numbers = 0;    // in the state after the context
  double reading = 0;   // tokens a second of the context, read in one call
  double decoding = 0;  // tokens a second after it, one at a time
};

// `tokens` has the context and the steps.
inline StreamCost stream_cost(const Model<float>& model, const Vector<float>& parameters, const Token* tokens,
                              Index context, Index steps) {
  auto cache = model.make_cache();
  StreamCost cost;
  {
    auto state = model.make_state();  // the first call makes room
    model.forward(parameters, tokens, context, &state, cache);
  }
  auto state = model.make_state();
  const Stopwatch reading;
  model.forward(parameters, tokens, context, &state, cache);
  cost.reading = double(context) / reading.seconds();
  cost.numbers = state.bytes() / Index(sizeof(float));
  const Stopwatch decoding;
  for (Index i = 0; i < steps; ++i) model.forward(parameters, tokens + context + i, 1, &state, cache);
  cost.decoding = double(steps) / decoding.seconds();
  return cost;
}

}  // namespace language_model
