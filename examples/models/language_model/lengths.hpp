// SPDX-License-Identifier: MIT
//
// The time and the memory of a stream of a trained model, over its length.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model.hpp"

namespace language_model {

struct LengthCost {
  Index length = 0;     // tokens that the stream has read
  double reading = 0;   // seconds, for all of them, in pieces of 512 tokens
  double decoding = 0;  // seconds of a token after them, the median of 16
  Index bytes = 0;      // of state
};

struct LengthCurve {
  std::string name;
  std::vector<LengthCost> costs;  // at 512, 1024, 2048 ... tokens
};

// Measures on one thread, while `tokens` lasts. `finished` sees every length.
LengthCurve measure_lengths(const std::string& name, const Model<float>& model, const Vector<float>& parameters,
                            const std::vector<Token>& tokens, Index longest,
                            const std::function<void(const LengthCost&)>& finished = {});

// A table in Markdown, with a row for every length.
std::string length_table(const std::vector<LengthCurve>& curves);

// Writes lengths.csv, lengths.md and lengths.gnuplot into the directory and draws lengths.svg. Returns false if gnuplot
// is missing.
bool write_lengths(const std::filesystem::path& directory, const std::vector<LengthCurve>& curves);

}  // namespace language_model
