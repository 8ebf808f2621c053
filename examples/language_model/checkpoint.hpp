// SPDX-License-Identifier: MIT
//
// Checkpoints: everything that a run needs to continue with the same numbers. See transformer/training_file.hpp.
#pragma once

#include <cstdlib>
#include <string>
#include <utility>

#include "run_result.hpp"
#include "transformer/training_file.hpp"

namespace language_model {

struct Checkpoint {
  ModelConfig model;
  TrainConfig train;
  std::string text_name, vocabulary;  // the vocabulary serialized; empty for bytes
  std::int64_t text_size = 0;         // in tokens; detects that a run is resumed on another text
  double seconds = 0;                 // of training
  std::vector<CurvePoint> curve;      // so far
  TrainingState<float> state;
};

namespace detail {

inline constexpr FileKind checkpoint_kind = {{'G', 'M', 'A', 'L', 'M', 0, 0, 0}, 2};

inline std::string to_hexadecimal(const std::string& bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

inline std::string from_hexadecimal(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    bytes += char(std::strtol(text.substr(i, 2).c_str(), nullptr, 16));
  return bytes;
}

}  // namespace detail

inline void save_checkpoint(const std::string& path, const Checkpoint& c, const Layout& layout) {
  const nlohmann::json header = {{"model", c.model},
                                 {"train", c.train},
                                 {"text", c.text_name},
                                 {"text_size", c.text_size},
                                 {"vocabulary", detail::to_hexadecimal(c.vocabulary)},
                                 {"seconds", c.seconds},
                                 {"curve", c.curve}};
  save_training_file(path, detail::checkpoint_kind, header, layout, c.state);
}

// make_layout(const ModelConfig&) gives the layout that the tensors of the file must have.
template <class MakeLayout>
Checkpoint load_checkpoint(const std::string& path, MakeLayout&& make_layout) {
  TrainingFile file(path, detail::checkpoint_kind);
  Checkpoint c;
  file.header([&](const nlohmann::json& header) {
    header.at("model").get_to(c.model);
    header.at("train").get_to(c.train);
    header.at("text").get_to(c.text_name);
    header.at("text_size").get_to(c.text_size);
    c.vocabulary = detail::from_hexadecimal(header.at("vocabulary").get<std::string>());
    header.at("seconds").get_to(c.seconds);
    header.at("curve").get_to(c.curve);
  });
  c.state = file.state(make_layout(c.model));
  return c;
}

}  // namespace language_model
