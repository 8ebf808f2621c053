// SPDX-License-Identifier: MIT
//
// One stream on all cores. A stream is sequential, but its chunks can follow each other through the blocks of the
// model: while block 2 reads a chunk, block 1 reads the next one, and another thread turns the chunk before into
// losses. With L blocks there are up to L + 1 chunks in work. Results have the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "language_model/model.hpp"
#include "transformer/threads.hpp"

namespace endless_text {

using language_model::Token;
using transformer::Vector;

class Pipeline {
 public:
  using Model = language_model::Model<float>;
  // Losses in nats of the next predicted tokens, in order.
  using Sink = std::function<void(const Vector<float>& losses)>;

  // All of these must outlive it.
  Pipeline(const Model& model, const Vector<float>& parameters, Model::State& state, transformer::ThreadPool& pool,
           Sink sink)
      : model_(model), parameters_(parameters), state_(state), pool_(pool), sink_(std::move(sink)) {
    for (language_model::Index i = 0; i < stages(); ++i) idle_.push_back({model.make_cache(), {}, 0});
  }

  // Reads `count` tokens, each of which predicts the one after it: `tokens` has count + 1.
  void push(const Token* tokens, language_model::Index count) {
    Chunk chunk = std::move(idle_.back());
    idle_.pop_back();
    chunk.tokens.assign(tokens, tokens + count + 1);
    chunk.stage = 0;
    busy_.push_back(std::move(chunk));
    advance();
  }

  // Until the sink has the losses of all tokens, and the state is the one after them.
  void drain() {
    while (!busy_.empty()) advance();
  }

 private:
  struct Chunk {
    Model::Cache cache;
    std::vector<Token> tokens;
    language_model::Index stage;  // the next one
  };

  language_model::Index stages() const { return model_.blocks().size() + 1; }

  // Every chunk in work by one stage. The oldest comes first and may be done.
  void advance() {
    pool_.parallel_for(language_model::Index(busy_.size()),
                       [&](language_model::Index i, language_model::Index) { run(busy_[std::size_t(i)]); });
    if (busy_.front().stage < stages()) return;
    sink_(busy_.front().cache.losses);
    idle_.push_back(std::move(busy_.front()));
    busy_.erase(busy_.begin());
  }

  void run(Chunk& chunk) {
    const Token* tokens = chunk.tokens.data();
    const auto count = language_model::Index(chunk.tokens.size()) - 1;
    if (chunk.stage == 0) model_.begin(parameters_, tokens, count, &state_, chunk.cache);
    if (chunk.stage < model_.blocks().size()) {
      model_.forward_block(parameters_, chunk.stage, &state_, chunk.cache);
    } else {
      model_.finish(parameters_, chunk.cache);
      model_.losses(tokens + 1, chunk.cache);
    }
    ++chunk.stage;
  }

  const Model& model_;
  const Vector<float>& parameters_;
  Model::State& state_;
  transformer::ThreadPool& pool_;
  Sink sink_;
  std::vector<Chunk> idle_, busy_;  // busy ones, oldest first, are in stages that differ
};

}  // namespace endless_text
