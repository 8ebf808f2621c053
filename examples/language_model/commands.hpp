// SPDX-License-Identifier: MIT
//
// The sub-commands of the program and their options. main.cpp reads the command line into these structures.
#pragma once

#include <string>

#include "config.hpp"

namespace language_model {

struct CommonOptions {
  std::string text;   // a file; empty: the King James Bible
  Index threads = 0;  // 0: all cores
};

struct TrainOptions {
  ModelConfig model;
  TrainConfig train;
  RunOptions run;
  std::string resume, log;
  Index sample = 0;  // bytes to generate at the end
  std::string prompt = "\n";
  SamplingOptions sampling;
};

struct GenerateOptions {
  std::string checkpoint, prompt = "\n";
  Index bytes = 1000;
  SamplingOptions sampling;
};

struct DemoOptions {
  std::string directory = "out";  // for the files it writes
  ModelConfig model;              // its mixer is ignored: all of them are trained
  TrainConfig train;
};

int train_command(const CommonOptions& common, TrainOptions options);
int generate_command(const GenerateOptions& options);
int evaluate_command(const CommonOptions& common, const std::string& checkpoint);
int baselines_command(const CommonOptions& common);
int demo_command(const CommonOptions& common, const DemoOptions& options);

}  // namespace language_model
