// SPDX-License-Identifier: MIT
//
// The results of a run, as JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "training.hpp"

namespace classification {

// The loss is stored as the means of 40 equal parts of the run.
inline nlohmann::json json_of(const RunResult& run) {
  constexpr std::size_t segments = 40;
  nlohmann::json curve = nlohmann::json::array();
  const std::size_t n = run.losses.size();
  for (std::size_t i = 0; i < (std::min)(segments, n); ++i) {
    const std::size_t begin = n * i / (std::min)(segments, n), end = n * (i + 1) / (std::min)(segments, n);
    double sum = 0;
    for (std::size_t j = begin; j < end; ++j) sum += run.losses[j];
    curve.push_back({{"steps", end}, {"loss", sum / double(end - begin)}});
  }
  return {{"parameters", run.parameters},
          {"steps", run.steps},
          {"tokens", run.tokens},
          {"seconds", run.seconds},
          {"training_loss", run.training_loss},
          {"accuracy", run.test.accuracy},
          {"standard_error", run.test.standard_error},
          {"test_loss", run.test.loss},
          {"test_cases", run.test.cases},
          {"curve", curve}};
}

}  // namespace classification
