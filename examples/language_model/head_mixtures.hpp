// SPDX-License-Identifier: MIT
//
// One Gaussian mixture per head, as tensors of the model and as the library's ProductMixture.
//
// The optimiser sees flat tensors in which the heads lie below one another; the operators want a gma::ProductMixture
// per head. This file copies the one into the other, and the gradients back. With one factor the product is an ordinary
// mixture.
#pragma once

#include <gma/gma.hpp>
#include <string>
#include <vector>

#include "mixer.hpp"

namespace language_model {

template <class S>
class HeadMixtures {
 public:
  using Mixture = gma::ProductMixture<S, gma::Diagonal>;

  // `components` slots per factor; the factors share the head's width equally.
  HeadMixtures(Layout& layout, const std::string& name, Index heads, Index head_width, std::vector<Index> components)
      : heads_(heads) {
    const Index dim = head_width / Index(components.size());
    for (std::size_t m = 0; m < components.size(); ++m) {
      const Index k = components[m];
      const std::string factor = name + ".factor" + std::to_string(m);
      factors_.push_back({k, dim, layout.add(factor + ".weight_logits", heads, k, Group::mixture),
                          layout.add(factor + ".means", heads * k, dim, Group::mixture),
                          layout.add(factor + ".log_scales", heads * k, dim, Group::mixture),
                          layout.add(factor + ".log_temperature", heads, 1, Group::mixture)});
    }
  }

  // Means from Normal(0, I), to which routing queries and keys of unit root mean square fit; unit scales; equal
  // weights; and the temperature sqrt(dim): at 1 the posterior is so sharp that most components never wake up.
  void initialize(Vector<S>& parameters, Random& random) const {
    for (const Factor& factor : factors_) {
      fill_normal(parameters, factor.means, 1, random);
      view(parameters, factor.log_temperature).setConstant(std::log(std::sqrt(S(factor.dim))));
    }
  }

  Mixture head(const Vector<S>& parameters, Index h) const {
    Mixture mixture;
    for (const Factor& factor : factors_) {
      gma::Mixture<S, gma::Diagonal> m;
      m.weight_logits = view(parameters, factor.weight_logits).row(h).transpose();
      m.means = view(parameters, factor.means).middleRows(h * factor.components, factor.components);
      m.log_scales = view(parameters, factor.log_scales).middleRows(h * factor.components, factor.components);
      m.log_temperature = view(parameters, factor.log_temperature)(h, 0);
      mixture.factors.push_back(std::move(m));
    }
    return mixture;
  }

  void add_gradient(const Mixture& gradient, Index h, Vector<S>& gradients) const {
    for (std::size_t f = 0; f < factors_.size(); ++f) {
      const Factor& factor = factors_[f];
      const auto& m = gradient.factors[f];
      view(gradients, factor.weight_logits).row(h) += m.weight_logits.transpose();
      view(gradients, factor.means).middleRows(h * factor.components, factor.components) += m.means;
      view(gradients, factor.log_scales).middleRows(h * factor.components, factor.components) += m.log_scales;
      view(gradients, factor.log_temperature)(h, 0) += m.log_temperature;
    }
  }

 private:
  struct Factor {
    Index components, dim;
    Tensor weight_logits, means, log_scales, log_temperature;
  };

  Index heads_;
  std::vector<Factor> factors_;
};

}  // namespace language_model
