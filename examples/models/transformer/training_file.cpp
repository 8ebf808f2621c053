// SPDX-License-Identifier: MIT

#include "training_file.hpp"

#include <algorithm>
#include <fstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "config_json.hpp"
#include "write_file.hpp"

namespace transformer {

namespace {

constexpr const char* first_moments = "moments.first.";
constexpr const char* second_moments = "moments.second.";

std::vector<Index> without_ones(std::vector<Index> shape) {
  shape.erase(std::remove(shape.begin(), shape.end(), Index(1)), shape.end());
  return shape;
}

std::string text_of(const std::vector<Index>& shape) { return nlohmann::json(shape).dump(); }

void put(gma::io::SafeTensors& file, const std::string& prefix, const Layout& layout, const Vector<float>& buffer) {
  for (const auto& entry : layout.entries()) {
    const auto values = view(buffer, entry.tensor);
    gma::io::Tensor& tensor = file.tensors[prefix + entry.name];
    if (entry.is_transposed) {
      tensor = gma::io::make_tensor(values.transpose(), entry.shape);
    } else {
      tensor = gma::io::make_tensor(values, entry.shape);
    }
  }
}

// Files of earlier versions began with the name of the program.
bool is_of_an_earlier_version(const std::string& path) {
  char begin[8] = {};
  std::ifstream(path, std::ios::binary).read(begin, 8);
  const std::string magic(begin, 8);
  return magic == std::string("GMALM\0\0\0", 8) || magic == std::string("GMACL\0\0\0", 8);
}

}  // namespace

void write_training_file(const std::string& path, const std::string& format, const ModelConfig& config,
                         nlohmann::json training, const Layout& layout, const TrainingState<float>& state,
                         const std::map<std::string, std::string>& metadata) {
  training["steps"] = state.steps;
  gma::io::SafeTensors file;
  file.metadata = metadata;
  file.metadata["format"] = "pt";
  file.metadata["gma_format"] = format;
  file.metadata["config"] = nlohmann::json(config).dump();
  file.metadata["training"] = training.dump();
  put(file, "", layout, state.parameters);
  put(file, first_moments, layout, state.first_moment);
  put(file, second_moments, layout, state.second_moment);
  make_folder_of(path);
  gma::io::write_safetensors(path, file);
}

TrainingFile::TrainingFile(std::string path, const std::string& format) : path_(std::move(path)) {
  if (is_of_an_earlier_version(path_))
    fail(
        "was written by an earlier version of this program, in a format of its own. Train the model again, or go on "
        "with that version");
  try {
    file_ = gma::io::read_safetensors(path_);
  } catch (const std::exception& error) {
    throw std::runtime_error(path_ + " is not a model of this program: " + error.what());
  }
  const std::string found = metadata("gma_format");
  if (!found.empty() && found != format) fail("holds a \"" + found + "\", expected \"" + format + "\"");
  if (metadata("config").empty()) fail("is not a model of this program: its metadata lacks config");
}

bool TrainingFile::has_training() const { return file_.metadata.count("training") > 0; }

ModelConfig TrainingFile::config() const {
  const nlohmann::json members = json("config");
  ModelConfig config;
  try {
    config = members.get<ModelConfig>();
    validate(config);
  } catch (const std::exception& error) {
    fail(std::string("has an impossible config: ") + error.what());
  }
  const nlohmann::json known = config;
  for (const auto& [name, value] : members.items())
    if (!known.contains(name) || known[name] != value)
      fail("has an impossible config: " + name + " is " + value.dump());
  return config;
}

std::string TrainingFile::metadata(const std::string& key) const {
  const auto found = file_.metadata.find(key);
  return found == file_.metadata.end() ? std::string() : found->second;
}

TrainingState<float> TrainingFile::state(const Layout& layout) const {
  TrainingState<float> state;
  state.parameters = numbers(layout, "");
  std::size_t expected = layout.entries().size();
  if (has_training()) {
    training([&](const nlohmann::json& members) { members.at("steps").get_to(state.steps); });
    state.first_moment = numbers(layout, first_moments);
    state.second_moment = numbers(layout, second_moments);
    expected *= 3;
  }
  if (file_.tensors.size() == expected) return state;
  std::map<std::string, gma::io::Tensor> others = file_.tensors;
  for (const auto& entry : layout.entries()) {
    for (const char* prefix : {"", first_moments, second_moments}) {
      if (*prefix == '\0' || has_training()) others.erase(prefix + entry.name);
    }
  }
  fail("has the tensor " + others.begin()->first + ", which is no part of the model of its config");
}

Vector<float> TrainingFile::numbers(const Layout& layout, const std::string& prefix) const {
  Vector<float> buffer = Vector<float>::Zero(layout.size());
  for (const auto& entry : layout.entries()) {
    const std::string name = prefix + entry.name;
    const auto found = file_.tensors.find(name);
    if (found == file_.tensors.end()) fail("lacks the tensor " + name + " " + text_of(entry.shape));
    const gma::io::Tensor& tensor = found->second;
    if (without_ones(tensor.shape) != without_ones(entry.shape))
      fail("has the tensor " + name + " " + text_of(tensor.shape) + ", expected " + text_of(entry.shape));
    Matrix<float> values;
    try {
      values = tensor.matrix<float>();
    } catch (const std::exception& error) {
      fail("has the tensor " + name + ", which has no numbers: " + error.what());
    }
    if (!values.allFinite()) fail("has the tensor " + name + ", in which a number is not finite");
    auto to = view(buffer, entry.tensor);
    if (entry.is_transposed) {
      to = Eigen::Map<const Matrix<float>>(values.data(), to.cols(), to.rows()).transpose();
    } else {
      to = Eigen::Map<const Matrix<float>>(values.data(), to.rows(), to.cols());
    }
  }
  return buffer;
}

nlohmann::json TrainingFile::json(const char* key) const {
  if (file_.metadata.count(key) == 0) fail(std::string("lacks metadata: ") + key);
  const nlohmann::json value = nlohmann::json::parse(metadata(key), nullptr, false);
  if (!value.is_object()) fail(std::string("has metadata that is not a JSON object: ") + key);
  return value;
}

void TrainingFile::fail(const std::string& what) const { throw std::runtime_error(path_ + " " + what); }

}  // namespace transformer
