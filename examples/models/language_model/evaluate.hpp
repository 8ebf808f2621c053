// SPDX-License-Identifier: MIT
//
// Evaluation: bits per byte over the held-out text or a part of it, in two ways. With tokens that are bytes:
//
//   windowed   Every byte of the part is predicted from the C/4 to C bytes before it (C is the context of training):
//              windows of C bytes advance by 3C/4, and the first quarter of each is read but not counted. This is the
//              same for every mixer, so compare mixers by this number.
//   streamed   The text runs through the model once and the memory is kept from byte to byte, as in a program that
//              reads a stream. Only for mixers of constant memory. The text is cut into 16 segments, so that threads
//              can share the work. Each starts 1024 bytes early with an empty memory; those bytes are not counted.
//
// The held-out part follows the training part, whose last bytes are the context of the first held-out ones. So do the
// two halves of the held-out part.
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

// The tokens that a window predicts, and the sum of their losses.
struct WindowLoss {
  Index tokens = 0;
  double nats = 0;
};

// In nats per token.
inline double mean_loss(const std::vector<WindowLoss>& windows) {
  double nats = 0, tokens = 0;
  for (const WindowLoss& window : windows) nats += window.nats, tokens += double(window.tokens);
  return nats / tokens;
}

template <class S>
class Evaluator {
 public:
  Evaluator(const Model<S>& model, const Text& text, Index context, ThreadPool& pool)
      : model_(model), text_(text), context_(context), pool_(pool) {
    for (Index i = 0; i < pool.size(); ++i) caches_.push_back(model.make_cache());
  }

  // Of every `every`-th window: 1 for all tokens of the part, more for a quick evaluation during training.
  std::vector<WindowLoss> windows(const Vector<S>& parameters, const Part& part, Index every = 1) {
    const Index lead = context_ / 4, counted_tokens = context_ - lead;
    const Index tasks = (windows_in(part) + every - 1) / every;
    std::vector<WindowLoss> losses(static_cast<std::size_t>(tasks));
    pool_.parallel_for(tasks, [&](Index task, Index worker) {
      const Index begin = part.begin + task * every * counted_tokens;
      const Index end = (std::min)(begin + counted_tokens, part.end);
      const Index first = (std::max)(begin - 1 - lead, Index(0));
      auto& cache = caches_[std::size_t(worker)];
      model_.forward(parameters, text_.data() + first, end - 1 - first, nullptr, cache);
      model_.losses(text_.data() + first + 1, cache);
      losses[std::size_t(task)] = {end - begin, cache.losses.tail(end - begin).template cast<double>().sum()};
    });
    return losses;
  }

  Index windows_in(const Part& part) const {
    const Index counted_tokens = context_ - context_ / 4;
    return (part.size() + counted_tokens - 1) / counted_tokens;
  }

  double windowed(const Vector<S>& parameters, const Part& part, Index every = 1) {
    return bits_per_nat * mean_loss(windows(parameters, part, every)) / part.bytes_per_token;
  }
  double windowed(const Vector<S>& parameters, Index every = 1) {
    return windowed(parameters, text_.whole_held_out(), every);
  }

  double streamed(const Vector<S>& parameters) { return streamed(parameters, text_.whole_held_out()); }
  double streamed(const Vector<S>& parameters, const Part& part) {
    constexpr Index segments = 16, lead = 1024, chunk = 256;
    std::vector<WindowLoss> losses(static_cast<std::size_t>(segments));
    pool_.parallel_for(segments, [&](Index task, Index worker) {
      const Index begin = part.begin + part.size() * task / segments;
      const Index end = part.begin + part.size() * (task + 1) / segments;
      auto& cache = caches_[std::size_t(worker)];
      auto state = model_.make_state();
      for (Index first = (std::max)(begin - lead, Index(0)); first + 1 < end; first += chunk) {
        const Index count = (std::min)(chunk, end - 1 - first);
        model_.forward(parameters, text_.data() + first, count, &state, cache);
        model_.losses(text_.data() + first + 1, cache);
        const Index predicted = (std::clamp)(first + 1 + count - begin, Index(0), count);
        losses[std::size_t(task)].nats += cache.losses.tail(predicted).template cast<double>().sum();
        losses[std::size_t(task)].tokens += predicted;
      }
    });
    return bits_per_nat * mean_loss(losses) / part.bytes_per_token;
  }

  // Mean loss in nats per token at each position of windows of so many tokens, each read from an empty memory on. It
  // shows the model beyond the context of its training. Positions have bins [0, 64), [64, 128), [128, 256), ... It
  // reads at most so many windows, spread over the part, and returns nothing if the part is shorter than one.
  std::vector<PositionLoss> by_position(const Vector<S>& parameters, const Part& part, Index length,
                                        Index most_windows) {
    std::vector<PositionLoss> bins;
    for (Index begin = 0, end = (std::min)(Index(64), length); begin < length;
         begin = end, end = (std::min)(2 * end, length))
      bins.push_back({begin, end, 0});
    const Index windows = (std::min)(most_windows, (part.size() - 1) / length);
    if (windows < 1) return {};
    std::vector<std::vector<double>> nats(std::size_t(windows), std::vector<double>(bins.size(), 0.0));
    pool_.parallel_for(windows, [&](Index task, Index worker) {
      const Index first = part.begin + (part.size() - 1 - length) * task / (std::max)(Index(1), windows - 1);
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
  const Model<S>& model_;
  const Text& text_;
  Index context_;
  ThreadPool& pool_;
  std::vector<typename Model<S>::Cache> caches_;
};

}  // namespace language_model
