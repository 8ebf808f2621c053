// SPDX-License-Identifier: MIT
//
// Validation: bits per byte over the held-out text, in two ways. With tokens that are bytes:
//
//   windowed   Every held-out byte is predicted from the C/4 to C bytes before it (C is the context of training):
//              windows of C bytes advance by 3C/4, and the first quarter of each is read but not counted. This is the
//              same for every mixer, so compare mixers by this number.
//   streamed   The text runs through the model once and the memory is kept from byte to byte, as in a program that
//              reads a stream. Only for mixers of constant memory. The text is cut into 16 segments, so that threads
//              can share the work. Each starts 1024 bytes early with an empty memory; those bytes are not counted.
//
// The held-out part follows the training part, whose last bytes are the context of the first held-out ones.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "model.hpp"
#include "text.hpp"
#include "transformer/threads.hpp"

namespace language_model {

// Mean loss in nats per token over positions [begin, end).
struct PositionLoss {
  Index begin, end;
  double loss;
};

template <class S>
class Evaluator {
 public:
  Evaluator(const Model<S>& model, const Text& text, Index context, ThreadPool& pool)
      : model_(model), text_(text), context_(context), pool_(pool) {
    for (Index i = 0; i < pool.size(); ++i) caches_.push_back(model.make_cache());
  }

  // Over every `every`-th window: 1 for all held-out tokens, more for a quick evaluation during training.
  double windowed(const Vector<S>& parameters, Index every = 1) {
    const Index lead = context_ / 4, counted_tokens = context_ - lead;
    const Index windows = (text_.held_out() + counted_tokens - 1) / counted_tokens;
    const Index tasks = (windows + every - 1) / every;
    std::vector<double> nats(std::size_t(tasks), 0.0);
    std::vector<Index> counted(std::size_t(tasks), 0);
    pool_.parallel_for(tasks, [&](Index task, Index worker) {
      const Index begin = text_.split + task * every * counted_tokens;
      const Index end = (std::min)(begin + counted_tokens, text_.size());
      const Index first = (std::max)(begin - 1 - lead, Index(0));
      auto& cache = caches_[std::size_t(worker)];
      model_.forward(parameters, text_.data() + first, end - 1 - first, nullptr, cache);
      model_.losses(text_.data() + first + 1, cache);
      nats[std::size_t(task)] = cache.losses.tail(end - begin).template cast<double>().sum();
      counted[std::size_t(task)] = end - begin;
    });
    return bits(nats, counted);
  }

  double streamed(const Vector<S>& parameters) {
    constexpr Index segments = 16, lead = 1024, chunk = 256;
    std::vector<double> nats(std::size_t(segments), 0.0);
    std::vector<Index> counted(std::size_t(segments), 0);
    pool_.parallel_for(segments, [&](Index task, Index worker) {
      const Index begin = text_.split + text_.held_out() * task / segments;
      const Index end = text_.split + text_.held_out() * (task + 1) / segments;
      auto& cache = caches_[std::size_t(worker)];
      auto state = model_.make_state();
      for (Index first = (std::max)(begin - lead, Index(0)); first + 1 < end; first += chunk) {
        const Index count = (std::min)(chunk, end - 1 - first);
        model_.forward(parameters, text_.data() + first, count, &state, cache);
        model_.losses(text_.data() + first + 1, cache);
        const Index predicted = (std::clamp)(first + 1 + count - begin, Index(0), count);
        nats[std::size_t(task)] += cache.losses.tail(predicted).template cast<double>().sum();
        counted[std::size_t(task)] += predicted;
      }
    });
    return bits(nats, counted);
  }

  // Mean loss in nats per token at each position of windows of so many tokens, each read from an empty memory on. It
  // shows the model beyond the context of its training. Positions have bins [0, 64), [64, 128), [128, 256), ... It
  // reads at most so many windows, spread over the held-out text, and returns nothing if the text is shorter than one.
  std::vector<PositionLoss> by_position(const Vector<S>& parameters, Index length, Index most_windows) {
    std::vector<PositionLoss> bins;
    for (Index begin = 0, end = (std::min)(Index(64), length); begin < length;
         begin = end, end = (std::min)(2 * end, length))
      bins.push_back({begin, end, 0});
    const Index windows = (std::min)(most_windows, (text_.held_out() - 1) / length);
    if (windows < 1) return {};
    std::vector<std::vector<double>> nats(std::size_t(windows), std::vector<double>(bins.size(), 0.0));
    pool_.parallel_for(windows, [&](Index task, Index worker) {
      const Index first = text_.split + (text_.held_out() - 1 - length) * task / (std::max)(Index(1), windows - 1);
      auto& cache = caches_[std::size_t(worker)];
      model_.forward(parameters, text_.data() + first, length, nullptr, cache);
      model_.losses(text_.data() + first + 1, cache);
      for (std::size_t i = 0; i < bins.size(); ++i)
        nats[std::size_t(task)][i] =
            cache.losses.segment(bins[i].begin, bins[i].end - bins[i].begin).template cast<double>().mean();
    });
    for (const auto& window : nats)
      for (std::size_t i = 0; i < bins.size(); ++i) bins[i].loss += window[i] / double(windows);
    return bins;
  }

 private:
  double bits(const std::vector<double>& nats, const std::vector<Index>& counted) const {
    double total = 0, tokens = 0;
    for (std::size_t i = 0; i < nats.size(); ++i) total += nats[i], tokens += double(counted[i]);
    return bits_per_nat * total / tokens / text_.bytes_per_token();
  }

  const Model<S>& model_;
  const Text& text_;
  Index context_;
  ThreadPool& pool_;
  std::vector<typename Model<S>::Cache> caches_;
};

}  // namespace language_model
