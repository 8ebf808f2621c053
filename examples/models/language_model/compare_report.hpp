// SPDX-License-Identifier: MIT
//
// The table and the plots of finished runs: loss against tokens, against time, and against position.
#pragma once

#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "transformer/results.hpp"

namespace language_model {

// For the runs with these members. Every variant has its better learning rate; the best variant comes first.
void report(const Results& results, const nlohmann::json& members, const CompareOptions& options);

}  // namespace language_model
