// SPDX-License-Identifier: MIT
//
// The sub-commands of the program and their options. main.cpp reads the command line into these structures.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "budget.hpp"

namespace classification {

struct CommonOptions {
  std::string task = "recall";   // or fashion, listops; compare: or all
  std::string budget = "small";  // smoke, small or full
  std::string data = "/usr/share/datasets/fashion-mnist";
  Index threads = 0;  // 0: all cores
};

struct TrainOptions {
  // Replaces values of the budget by those of the command line.
  std::function<void(Budget&)> change = [](Budget&) {};
  std::string log;  // a JSON file for the result and the loss of every step; empty: none
};

struct CompareOptions {
  std::string results = "classification.json";  // finished runs, which are not repeated
  std::string table;                            // a file for the table in Markdown; empty: none
  std::string only;                             // the variant of this name, or variants whose name contains it
  std::vector<std::uint64_t> seeds = {1};
  std::vector<double> learning_rates;  // empty: that of the budget
};

int train_command(const CommonOptions& common, const TrainOptions& options);
int compare_command(const CommonOptions& common, const CompareOptions& options);

}  // namespace classification
