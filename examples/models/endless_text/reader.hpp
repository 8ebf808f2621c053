// SPDX-License-Identifier: MIT
//
// Reads a text of any length through a trained language model, in memory that does not depend on the length.
#pragma once

#include <cstdint>
#include <string>

#include "byte_source.hpp"
#include "language_model/checkpoint.hpp"
#include "losses.hpp"

namespace endless_text {

struct ReadOptions {
  Index chunk = 1024;            // bytes that go through the model at a time
  Index threads = 0;             // 0: all cores
  std::int64_t begin = 0;        // bytes of the text that are left out before the stream begins
  std::int64_t bytes = -1;       // length of the stream at most; -1: to the end of the text
  std::string state;             // a file to go on from, if it exists, and to save to; empty: none
  double save_every = 60;        // seconds
  bool is_feed = false;          // the source goes on where the saved stream ended; else it has the text from its start
  bool is_quiet = false;         // no progress line
  std::int64_t text_bytes = -1;  // the length of the text, for the progress line; -1: unknown
};

struct ReadResult {
  bool is_complete = false;  // else interrupted
  Losses losses;
  double seconds = 0;       // of reading, those of earlier parts of the stream included
  double seconds_here = 0;  // in this call
  std::int64_t bytes_here = 0;
  std::int64_t peak_resident_bytes = 0;  // of the program
  std::int64_t memory_bytes = 0;         // of the model's memory at the end
  Index threads = 0;
};

// A chunk at a time, until the text ends or Ctrl-C. The result has the same bits for any number of threads, and in
// however many parts the text was read. Throws std::invalid_argument if the model or the options do not allow it, and
// std::runtime_error if the text or the saved state is at fault: the saved state is then unchanged. An exception of the
// source passes through after what was read before has been saved.
ReadResult read_text(const language_model::Checkpoint& checkpoint, const ByteSource& source,
                     const ReadOptions& options);

// The largest resident memory of the program so far, in bytes.
std::int64_t peak_resident_bytes();

}  // namespace endless_text
