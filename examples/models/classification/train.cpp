// SPDX-License-Identifier: MIT
//
// One model, trained and tested.

#include <cstdio>

#include "commands.hpp"
#include "run_json.hpp"
#include "training.hpp"
#include "transformer/config_json.hpp"
#include "transformer/results.hpp"

namespace classification {

int train_command(const CommonOptions& common, const TrainOptions& options) {
  Budget budget = budget_of(common.task, common.budget);
  options.change(budget);
  const auto task = make_task(common.task, budget, common.data);
  ThreadPool pool(common.threads);
  Training training(*task, budget.model, budget.train, pool);
  const std::string name = common.task + ", " + name_of(budget.model.mixer);
  training.train(name, false);  // up to Ctrl-C; what has been learned until then is tested
  const RunResult result = training.test(name, false);
  std::printf("guessing: %.2f%%\n", 100 * task->chance());
  if (!options.log.empty()) {
    nlohmann::json log = json_of(result);
    log["model"] = budget.model;
    log["train"] = budget.train;
    log["losses"] = result.losses;
    write_file(options.log, log.dump(1) + "\n");
  }
  return 0;
}

}  // namespace classification
