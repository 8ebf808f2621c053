// SPDX-License-Identifier: MIT
//
// Models in safetensors files, which Python opens too. A file has the parameters of a model, or those and everything
// else that its training needs to continue with the same numbers.
//
//   tensors    of every parameter, under its name in the layout, for example blocks.0.mlp.down.weight. Weights of dense
//              layers are [out, in]. A file of a training also has the first and second moments of AdamW under
//              moments.first.<name> and moments.second.<name>
//   metadata   config        the ModelConfig as JSON
//              gma_format    the kind of model, for example "gma language model 1"; it may be missing
//              training      JSON of the program that trains, with "steps" done; only in files of a training
//              format        "pt", which other programs look for
//              and other keys of the program
#pragma once

#include <gma/io/safetensors.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "optimizer.hpp"

namespace transformer {

// Writes a file of a training. `training` gets "steps". `metadata` has other keys.
void write_training_file(const std::string& path, const std::string& format, const ModelConfig& config,
                         nlohmann::json training, const Layout& layout, const TrainingState<float>& state,
                         const std::map<std::string, std::string>& metadata = {});

// Reads either kind of file. Everything throws std::runtime_error with the file's name if the file is of another kind,
// is damaged or does not fit.
class TrainingFile {
 public:
  TrainingFile(std::string path, const std::string& format);

  // Whether training can continue from this file. Else it has the parameters alone.
  bool has_training() const;

  ModelConfig config() const;
  std::string metadata(const std::string& key) const;  // empty if it is missing

  // read(training) takes its data from the JSON of the program. Only for files of a training.
  template <class Read>
  void training(const Read& read) const {
    try {
      read(json("training"));
    } catch (const nlohmann::json::exception& error) {
      fail(std::string("has unexpected metadata: ") + error.what());
    }
  }

  // The tensors of a model with this layout. Any floating type is converted. Without a training only `parameters` is
  // set; a dimension of 1 may be missing or superfluous in a tensor's shape.
  TrainingState<float> state(const Layout& layout) const;

 private:
  [[noreturn]] void fail(const std::string& what) const;
  nlohmann::json json(const char* key) const;
  Vector<float> numbers(const Layout& layout, const std::string& prefix) const;

  std::string path_;
  gma::io::SafeTensors file_;
};

}  // namespace transformer
