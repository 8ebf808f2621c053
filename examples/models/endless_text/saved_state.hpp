// SPDX-License-Identifier: MIT
//
// Everything that a stream needs to go on with the same bits, in a file.
#pragma once

#include <cstdint>
#include <string>

#include "byte_source.hpp"
#include "language_model/model.hpp"
#include "losses.hpp"

namespace endless_text {

// A stream at the end of a chunk.
struct StreamState {
  std::uint64_t model = 0;      // fingerprint of the model that reads
  Index chunk = 0;              // tokens that are read at a time
  std::int64_t begin = 0;       // bytes of the text that were left out before the stream
  std::int64_t bytes_read = 0;  // from the source, those included that were left out
  Fingerprint text;             // of all of these
  std::string pending;          // the last of them, which the model has not read yet
  double seconds = 0;           // of reading
  Losses losses;
  language_model::Model<float>::State memory;  // of the model
};

// Complete or not at all: if the program dies meanwhile, the old file is still there. Throws std::runtime_error.
void save_state(const std::string& path, const StreamState& state);

// Into a state whose memory is from make_state() of the model. Throws std::runtime_error with the file's name if the
// file is not one of save_state(), is damaged, or of another model.
void load_state(const std::string& path, StreamState& state);

}  // namespace endless_text
