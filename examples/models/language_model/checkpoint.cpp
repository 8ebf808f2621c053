// SPDX-License-Identifier: MIT

#include "checkpoint.hpp"

#include <cstdlib>
#include <stdexcept>

#include "model.hpp"

namespace language_model {

namespace {

constexpr const char* file_format = "gma language model 1";

// Metadata is text.
std::string to_hexadecimal(const std::string& bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::string from_hexadecimal(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    bytes += char(std::strtol(text.substr(i, 2).c_str(), nullptr, 16));
  return bytes;
}

}  // namespace

void save_checkpoint(const std::string& path, const Checkpoint& c, const Layout& layout) {
  const nlohmann::json training = {{"config", c.train},
                                   {"text", c.text_name},
                                   {"text_size", c.text_size},
                                   {"seconds", c.seconds},
                                   {"curve", c.curve}};
  std::map<std::string, std::string> metadata;
  if (!c.vocabulary.is_bytes()) metadata["vocabulary"] = to_hexadecimal(c.vocabulary.serialized());
  write_training_file(path, file_format, c.model, training, layout, c.state, metadata);
}

Checkpoint load_checkpoint(const std::string& path) {
  const TrainingFile file(path, file_format);
  Checkpoint c;
  c.model = file.config();
  c.vocabulary = Vocabulary::deserialize(from_hexadecimal(file.metadata("vocabulary")));
  if (c.model.vocabulary != c.vocabulary.size())
    throw std::runtime_error(path + " has a model of " + std::to_string(c.model.vocabulary) +
                             " tokens and a vocabulary of " + std::to_string(c.vocabulary.size()));
  c.is_resumable = file.has_training();
  if (c.is_resumable) {
    file.training([&](const nlohmann::json& training) {
      training.at("config").get_to(c.train);
      training.at("text").get_to(c.text_name);
      training.at("text_size").get_to(c.text_size);
      training.at("seconds").get_to(c.seconds);
      training.at("curve").get_to(c.curve);
    });
  }
  c.state = file.state(layout_of(c.model));
  return c;
}

Checkpoint load_resumable_checkpoint(const std::string& path) {
  Checkpoint c = load_checkpoint(path);
  if (!c.is_resumable)
    throw std::runtime_error(path +
                             " has the parameters of a model and not the state of its training, so training "
                             "cannot continue; use it with generate or evaluate");
  return c;
}

}  // namespace language_model
