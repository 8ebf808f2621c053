// SPDX-License-Identifier: MIT
//
// How the components of one mixture are used, for the keys or the queries of one head. It counts token by token, from
// their responsibilities.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "statistics.hpp"
#include "surface_form.hpp"

namespace inspect_routing {

using transformer::Token;

// A token of the text with the facts that the statistics need.
struct SeenToken {
  Index position = 0;  // in the text
  Token token = 0;
  SurfaceForm form = SurfaceForm::punctuation;
  std::uint64_t phrase = 0;  // stands for the token and those just before it: equal where they are equal
};

// A token that a component is strong for.
struct StrongToken {
  Index position = 0;
  float responsibility = 0;
  std::uint64_t phrase = 0;
};

class ComponentStatistics {
 public:
  ComponentStatistics(Index components, std::size_t strongest)
      : usage_(Vector<double>::Zero(components)),
        forms_(Matrix<double>::Zero(components, surface_forms)),
        most_(strongest),
        strongest_(std::size_t(components)),
        common_(std::size_t(components)) {}

  // responsibilities: T x K, one row per token.
  void add(const Matrix<float>& responsibilities, const SeenToken* tokens) {
    for (Index t = 0; t < responsibilities.rows(); ++t) {
      const auto row = responsibilities.row(t);
      Index best = 0;
      row.maxCoeff(&best);
      usage_ += row.cast<double>().transpose();
      const double of_token = entropy(row);
      entropy_ += of_token;
      effective_ += std::exp(of_token);
      forms_(best, static_cast<Index>(tokens[t].form)) += 1;
      ++common_[std::size_t(best)][tokens[t].token];
      for (Index k = 0; k < row.size(); ++k) consider(strongest_[std::size_t(k)], tokens[t], row(k));
    }
    tokens_ += responsibilities.rows();
  }

  Index components() const { return usage_.size(); }
  Index tokens() const { return tokens_; }

  // Mean responsibilities, K: they sum to 1. All zero without tokens.
  Vector<double> usage() const { return usage_ / per(); }

  // Means over tokens of the entropy H of a token's responsibilities, nats, and of exp(H): how many components a token
  // is spread over.
  double token_entropy() const { return entropy_ / per(); }
  double token_components() const { return effective_ / per(); }

  // Tokens by their strongest component and their surface form, K x surface_forms.
  const Matrix<double>& forms() const { return forms_; }

  // The tokens with the highest responsibility of component k, highest first. Of equal phrases only the strongest.
  const std::vector<StrongToken>& strongest(Index k) const { return strongest_[std::size_t(k)]; }

  // The most frequent tokens among those whose strongest component is k, with how often they are, most frequent first.
  std::vector<std::pair<Token, Index>> common(Index k, std::size_t most) const {
    const auto& counts = common_[std::size_t(k)];
    std::vector<std::pair<Token, Index>> sorted(counts.begin(), counts.end());
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    if (sorted.size() > most) sorted.resize(most);
    return sorted;
  }

 private:
  double per() const { return double((std::max)(Index(1), tokens_)); }

  void consider(std::vector<StrongToken>& list, const SeenToken& token, float responsibility) const {
    if (most_ == 0 || (list.size() == most_ && responsibility <= list.back().responsibility)) return;
    const auto same = std::find_if(list.begin(), list.end(), [&](const auto& e) { return e.phrase == token.phrase; });
    if (same != list.end()) {
      if (responsibility <= same->responsibility) return;
      list.erase(same);
    } else if (list.size() == most_) {
      list.pop_back();
    }
    const auto place =
        std::find_if(list.begin(), list.end(), [&](const auto& e) { return e.responsibility < responsibility; });
    list.insert(place, StrongToken{token.position, responsibility, token.phrase});
  }

  Vector<double> usage_;
  Matrix<double> forms_;
  double entropy_ = 0, effective_ = 0;
  Index tokens_ = 0;
  std::size_t most_;
  std::vector<std::vector<StrongToken>> strongest_;
  std::vector<std::map<Token, Index>> common_;
};

}  // namespace inspect_routing
