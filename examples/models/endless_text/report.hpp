// SPDX-License-Identifier: MIT
//
// What a stream gives: a table to read, and the same in CSV and JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "reader.hpp"

namespace endless_text {

// Bits per byte by position. `context`: tokens of the windows of training; 0: unknown.
std::string table(const ReadResult& result, Index context);

// One line per band and per megabyte. It has only what depends on the text and the model, so that two runs give the
// same bytes.
std::string csv(const ReadResult& result);

// Everything, with times and memory.
nlohmann::json to_json(const ReadResult& result);

}  // namespace endless_text
