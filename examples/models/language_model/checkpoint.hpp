// SPDX-License-Identifier: MIT
//
// Models in files, and everything that a run needs to continue with the same numbers. transformer/training_file.hpp has
// the format, and README.md the names and shapes of the tensors.
#pragma once

#include <string>
#include <vector>

#include "run_result.hpp"
#include "transformer/training_file.hpp"
#include "vocabulary.hpp"

namespace language_model {

struct Checkpoint {
  ModelConfig model;
  Vocabulary vocabulary;
  bool is_resumable = true;  // else a file of parameters only: the members below have their defaults
  TrainConfig train;
  std::string text_name;
  std::int64_t text_size = 0;     // in tokens; detects that a run is resumed on another text
  double seconds = 0;             // of training
  std::vector<CurvePoint> curve;  // so far
  TrainingState<float> state;     // the parameters; if training can continue also the rest
};

void save_checkpoint(const std::string& path, const Checkpoint& checkpoint, const Layout& layout);

// Throws std::runtime_error with the file's name if it is no model of this program, is damaged or does not fit.
Checkpoint load_checkpoint(const std::string& path);

// The same, of a file with which training can continue.
Checkpoint load_resumable_checkpoint(const std::string& path);

}  // namespace language_model
