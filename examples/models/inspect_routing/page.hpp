// SPDX-License-Identifier: MIT
//
// An inspection as one HTML page that needs no server and no network. Its parts are in the folder page; the page
// contains the numbers as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "inspection.hpp"

namespace inspect_routing {

// JSON for the inside of a page's <script>: no <, > or &, for any strings.
std::string json_for_script(const nlohmann::json& json);

// Numbers from 0 to 1 as unsigned 16-bit integers of 65535ths, little endian, in base 64.
std::string packed(const Matrix<double>& shares);

nlohmann::json page_data(const Inspection& inspection);

std::string page(const Inspection& inspection);

}  // namespace inspect_routing
