// SPDX-License-Identifier: MIT

#include "budget.hpp"

#include <algorithm>

#include "fashion.hpp"
#include "listops_task.hpp"

namespace classification {

namespace {

void set_model(Budget& b, Index layers, Index width, Index heads, Index mlp) {
  b.model.layers = layers, b.model.width = width, b.model.heads = heads, b.model.mlp_width = mlp;
}

void set_train(Budget& b, std::int64_t steps, Index batch, double learning_rate) {
  b.train.steps = steps, b.train.batch = batch, b.train.learning_rate = learning_rate;
  b.train.shards = (std::min)(batch, Index(16));  // of which up to 16 threads take one each
  b.train.warmup_steps = (std::min)(std::int64_t(100), steps / 10);
}

void set_fashion(Budget& b, const std::string& name) {
  if (name == "smoke") {
    set_model(b, 1, 16, 2, 16);
    set_train(b, 4, 4, 2e-3);
    b.size.training = 64, b.size.tests = 32;
  } else if (name == "small") {
    set_model(b, 2, 32, 2, 128);
    set_train(b, 500, 16, 4e-3);
    b.size.tests = 1000;
  } else {
    set_model(b, 2, 64, 2, 256);
    set_train(b, 3750, 16, 3e-3);  // one epoch
  }
}

void set_listops(Budget& b, const std::string& name) {
  if (name == "smoke") {
    set_model(b, 1, 16, 2, 16);
    set_train(b, 4, 4, 2e-3);
    b.size.training = 64, b.size.tests = 32;
    b.listops.shortest = 16, b.listops.longest = 64;
  } else if (name == "small") {
    set_model(b, 2, 64, 2, 192);
    set_train(b, 1000, 16, 2e-3);
    b.size.training = 16000, b.size.tests = 2000;
    b.listops.shortest = 32, b.listops.longest = 128;
  } else {
    set_model(b, 2, 64, 2, 256);
    set_train(b, 2500, 16, 2e-3);
    b.size.training = 96000, b.size.tests = 10000;
  }
}

void set_recall(Budget& b, const std::string& name) {
  if (name == "smoke") {
    set_model(b, 1, 16, 2, 16);
    set_train(b, 4, 4, 2e-3);
    b.size.tests = 16;
    b.recall = {4, 32, 64};
  } else if (name == "small") {
    set_model(b, 2, 64, 2, 128);
    set_train(b, 600, 32, 4e-3);
    b.size.tests = 200;
    b.recall = {16, 128, 256};
  } else {
    set_model(b, 2, 128, 2, 256);
    set_train(b, 2000, 32, 2e-3);
    b.size.tests = 1000;
    b.recall = {32, 256, 512};
  }
}

}  // namespace

Budget budget_of(const std::string& task, const std::string& name) {
  require(name == "smoke" || name == "small" || name == "full",
          "budget is " + name + ", expected smoke, small or full");
  Budget b;
  b.train.seconds = 0;
  // With more, mamba in both directions would have more parameters than all of gma.
  if (name != "full") b.model.state = 32;
  if (task == "fashion") {
    set_fashion(b, name);
  } else if (task == "listops") {
    set_listops(b, name);
  } else if (task == "recall") {
    set_recall(b, name);
  } else {
    throw std::invalid_argument("task is " + task + ", expected fashion, listops or recall");
  }
  return b;
}

std::unique_ptr<Task> make_task(const std::string& task, const Budget& budget, const std::string& directory) {
  if (task == "fashion") return std::make_unique<Fashion>(directory, budget.size.training, budget.size.tests);
  if (task == "listops") return std::make_unique<ListOps>(budget.listops, budget.size.training, budget.size.tests);
  require(task == "recall", "task is " + task + ", expected fashion, listops or recall");
  return std::make_unique<Recall>(budget.recall, budget.size.tests);
}

}  // namespace classification
