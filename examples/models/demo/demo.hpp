// SPDX-License-Identifier: MIT
//
// The demo of the repository: models trained on a book, compared, measured and looked into.
#pragma once

#include <string>

#include "language_model/commands.hpp"

namespace demo {

using namespace language_model;

struct DemoOptions {
  std::string directory = "out";  // for the files it writes
  std::string language_model;     // the program, for the commands that it prints
  ModelConfig model;              // its mixer is ignored: gma, gma-plain and sdpa are trained
  TrainConfig train;
  Index longest = 65536;  // tokens of the longest stream that is measured
};

// Prints, and writes files. Throws std::runtime_error if a file cannot be written, and on Ctrl-C.
void run(const CommonOptions& common, const DemoOptions& options);

}  // namespace demo
