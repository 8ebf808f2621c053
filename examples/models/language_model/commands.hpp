// SPDX-License-Identifier: MIT
//
// The sub-commands of the program and their options. main.cpp reads the command line into these structures.
#pragma once

#include <string>
#include <vector>

#include "options.hpp"

namespace language_model {

struct CommonOptions {
  std::vector<std::string> text = {"kjv"};  // kjv, anarchism, or files
  Index pieces = 0;                         // of a subword vocabulary; 0: bytes
  Index threads = 0;                        // 0: all cores
};

struct TrainOptions {
  ModelConfig model;
  TrainConfig train;
  RunOptions run;
  std::string resume, log;
  Index sample = 0;  // tokens to generate at the end
  std::string prompt = "\n";
  SamplingOptions sampling;
};

struct GenerateOptions {
  std::string checkpoint, prompt = "\n";
  Index tokens = 1000;
  Index context = 0;  // 0: that of training
  SamplingOptions sampling;
};

struct EvaluateOptions {
  std::string checkpoint;
  std::string json;   // a file for the figures; empty: none
  Index context = 0;  // 0: that of training
};

struct LengthsOptions {
  std::vector<std::string> checkpoints;
  std::string directory = "lengths";  // for the files it writes
  Index longest = 65536;
};

struct CompareOptions {
  std::string budget = "small";
  std::string results = "language_model.json";  // finished runs, which are not repeated
  std::string table;                            // a file for the table in Markdown; empty: none
  std::string plot;                             // an SVG file for the curves; empty: none
  std::string models;                           // a directory for the trained models; empty: they are not kept
  std::string only;                             // the variant of this name, or all whose names contain it
  std::vector<std::uint64_t> seeds = {1};
  std::vector<double> learning_rates = {1e-3, 2e-3, 4e-3, 8e-3};  // for every variant
};

int train_command(const CommonOptions& common, TrainOptions options);
int generate_command(const GenerateOptions& options);
int evaluate_command(const CommonOptions& common, const EvaluateOptions& options);
int baselines_command(const CommonOptions& common);
int compare_command(const CommonOptions& common, const CompareOptions& options);
int lengths_command(const CommonOptions& common, const LengthsOptions& options);

}  // namespace language_model
