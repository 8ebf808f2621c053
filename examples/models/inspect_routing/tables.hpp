// SPDX-License-Identifier: MIT
//
// An inspection as CSV. Layers, heads, components and ranks count from 1, tokens of the window from 1 too; entropies
// and information are in nats, times in tokens.
#pragma once

#include <string>

#include "inspection.hpp"

namespace inspect_routing {

// A field as RFC 4180 requires: in quotes if necessary, with quotes doubled.
std::string csv_field(const std::string& text);

std::string summary_csv(const Inspection& inspection);           // a line for each head and side
std::string usage_csv(const Inspection& inspection);             // for each component
std::string tokens_csv(const Inspection& inspection);            // for each of the strongest tokens of each
std::string responsibilities_csv(const Inspection& inspection);  // for each token of the window, head and side
std::string affinity_csv(const Inspection& inspection);  // for each pair of them, value 0 standing for all before

}  // namespace inspect_routing
