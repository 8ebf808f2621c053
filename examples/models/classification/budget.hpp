// SPDX-License-Identifier: MIT
//
// The sizes of a task, a model and a run. smoke takes seconds and learns nothing, small takes minutes on two cores, and
// full takes eight to ten minutes per run on four cores of a server.
#pragma once

#include <memory>
#include <string>

#include "listops.hpp"
#include "recall.hpp"
#include "task.hpp"

namespace classification {

constexpr const char* all_tasks[] = {"fashion", "listops", "recall"};

// Numbers of examples; 0: all of them.
struct Size {
  Index training = 0, tests = 0;
};

struct Budget {
  ModelConfig model;  // of the mixer gma; the others get the same number of parameters
  TrainConfig train;
  Size size;
  listops::Grammar listops;
  RecallSize recall;
};

// Throws std::invalid_argument on unknown names.
Budget budget_of(const std::string& task, const std::string& name);

// directory: where the files of Fashion-MNIST are.
std::unique_ptr<Task> make_task(const std::string& task, const Budget& budget, const std::string& directory);

}  // namespace classification
