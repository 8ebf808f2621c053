// SPDX-License-Identifier: MIT
//
// The table and the plots of finished runs: loss against tokens, against time, and against position.
#pragma once

#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "transformer/results.hpp"

namespace language_model {

// The member `evaluation` of a run whose learning rate is chosen by the validation half of the held-out text, and whose
// figures are of the test half. Runs of earlier versions lack it: all of the held-out text served for both.
inline constexpr const char* test_apart = "validation and test halves";

// For the runs with these members, once for each kind of evaluation: the variants at their chosen rates, the best
// first. Plots are of the runs with the test apart.
void report(const Results& results, const nlohmann::json& members, const CompareOptions& options);

}  // namespace language_model
