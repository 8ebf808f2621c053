// SPDX-License-Identifier: MIT
//
// Runs the language model over tokens and returns how every head routed them.
#pragma once

#include <functional>
#include <vector>

#include "language_model/checkpoint.hpp"
#include "language_model/model.hpp"

namespace inspect_routing {

using transformer::Index;
using transformer::Matrix;
using transformer::Token;
using transformer::Vector;

// One head's view of N tokens.
struct HeadRouting {
  Matrix<float> keys, queries;    // responsibilities, N x K
  Vector<double> log_forgetting;  // N; empty if nothing is forgotten
};

class RoutingReader {
 public:
  // Throws std::runtime_error unless the model's mixer is gma or gma-plain. The checkpoint must outlive this.
  explicit RoutingReader(const language_model::Checkpoint& checkpoint);

  Index components() const;                                         // K of every head
  std::vector<double> temperatures(Index layer, Index head) const;  // of each factor

  // Calls visit(layer, head, routing) for every head, layer by layer, after the tokens went through the model from an
  // empty memory on.
  using Visitor = std::function<void(Index, Index, const HeadRouting&)>;
  void read(const Token* tokens, Index count, const Visitor& visit);

 private:
  const language_model::Checkpoint& checkpoint_;
  language_model::Model<float> model_;
  language_model::Model<float>::Cache cache_;
};

}  // namespace inspect_routing
