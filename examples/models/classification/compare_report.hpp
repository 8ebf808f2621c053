// SPDX-License-Identifier: MIT
//
// The table of finished runs of one task.
#pragma once

#include <string>

#include "transformer/results.hpp"

namespace classification {

// In Markdown, under the task's name. Every variant has its better learning rate, over all its seeds; the best variant
// comes first. Empty if there are no runs.
std::string table_of(const transformer::Results& results, const std::string& task, const std::string& budget);

}  // namespace classification
