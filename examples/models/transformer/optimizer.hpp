// SPDX-License-Identifier: MIT
//
// AdamW with parameter groups, the learning-rate schedule, and clipping by the global norm.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "config.hpp"
#include "tensors.hpp"

namespace transformer {

// Linear warm-up over the first steps, then half a cosine from 1 down to `final` over the budget (0 <= progress <= 1).
inline double schedule(const TrainConfig& config, std::int64_t step, double progress) {
  constexpr double pi = 3.141592653589793;
  const double warmup = double(step + 1) / double((std::max)(config.warmup_steps, std::int64_t(1)));
  const double cosine = 0.5 * (1 + std::cos(pi * (std::min)(progress, 1.0)));
  const double decayed = config.final_learning_rate + (1 - config.final_learning_rate) * cosine;
  return config.learning_rate * (std::min)(warmup, 1.0) * decayed;
}

// Everything that training changes and that it needs to continue: buffers of the layout, and the number of finished
// steps.
template <class S>
struct TrainingState {
  std::int64_t steps = 0;
  Vector<S> parameters, first_moment, second_moment;
};

// Per parameter, with gradient g and step count t:
//   m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
//   w = w - rate (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w)
template <class S>
class AdamW {
 public:
  AdamW(const Layout& layout, const TrainConfig& config)
      : first_moment(Vector<S>::Zero(layout.size())), second_moment(Vector<S>::Zero(layout.size())), config_(config) {}

  // One step of tensor number `entry` of the layout, with its gradient times gradient_scale. `step` counts from 0.
  void update(const Layout& layout, std::size_t entry, Vector<S>& parameters, const Vector<S>& gradients,
              double gradient_scale, double learning_rate, std::int64_t step) {
    const Tensor& tensor = layout.entries()[entry].tensor;
    const Group group = layout.entries()[entry].group;
    const double t = double(step + 1);
    const S b1 = S(config_.beta1), b2 = S(config_.beta2);
    const S unbias1 = S(1 / (1 - std::pow(config_.beta1, t))), unbias2 = S(1 / (1 - std::pow(config_.beta2, t)));
    const S rate = S(learning_rate * (group == Group::mixture ? config_.mixture_learning_rate : 1));
    const S decay = S(group == Group::matrix ? config_.weight_decay : 0);
    auto w = parameters.segment(tensor.offset, tensor.size()).array();
    auto m = first_moment.segment(tensor.offset, tensor.size()).array();
    auto v = second_moment.segment(tensor.offset, tensor.size()).array();
    const auto g = gradients.segment(tensor.offset, tensor.size()).array();
    m = b1 * m + (S(1) - b1) * S(gradient_scale) * g;
    v = b2 * v + (S(1) - b2) * (S(gradient_scale) * g).square();
    w -= rate * (unbias1 * m / ((unbias2 * v).sqrt() + S(1e-8)) + decay * w);
  }

  Vector<S> first_moment, second_moment;

 private:
  TrainConfig config_;
};

// The factor that scales a gradient of this norm down to `limit`.
inline double clip_factor(double norm, double limit) { return norm > limit ? limit / norm : 1; }

}  // namespace transformer
