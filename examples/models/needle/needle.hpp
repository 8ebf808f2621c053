// SPDX-License-Identifier: MIT
//
// A needle in a stream: what does a model of constant memory still know of the stream's beginning?
//
// A stream is in cells of four bytes. It begins with P needles, `!kv` and a letter: under the key k is the value v.
// Then come letters, as many as one likes. After so many bytes every key is asked, `?k` and two letters, in another
// order, on a copy of the state; the answer is right if the most probable byte after k is v. Then the stream goes on as
// if nobody had asked. Keys are the bytes 128 to 191, values 192 to 255, letters a to z, as in
// examples/pytorch/scale/memory_tasks.py, which trains models on such streams of 1,024 bytes.
#pragma once

#include <cstdint>
#include <vector>

#include "language_model/model.hpp"
#include "transformer/threads.hpp"

namespace needle {

using language_model::Index;
using language_model::Token;
using transformer::Vector;

struct Options {
  Index needles = 16;
  Index longest = 1 << 20;  // bytes from the start of a stream to the end of its last questions; the first: 256
  Index streams = 8;
  Index chunk = 128;  // bytes that are read at a time
  std::uint64_t seed = 1;
};

// Over all streams, of the questions that end `length` bytes after the start.
struct Answers {
  Index length = 0;
  Index asked = 0, right = 0;
  double nats = 0;        // mean loss of the values
  Index state_bytes = 0;  // of one stream
};

struct Questions {
  std::vector<Token> tokens;  // [4 P]
  std::vector<Token> values;  // [P]: of the question in cell i
};

// The bytes of one stream, from its seed.
class Stream {
 public:
  Stream(const Options& options, Index number);

  std::vector<Token> needles() const;       // [4 P]
  std::vector<Token> letters(Index count);  // the next ones
  Questions questions();                    // all keys, in a new order

 private:
  Index uniform(Index count);

  std::uint64_t random_;
  std::vector<Token> keys_, values_, padding_;
};

// One entry per length: 256, 512, ... up to options.longest. Throws std::invalid_argument if the model is not of bytes,
// if its state grows with the stream, or if an option is out of range.
std::vector<Answers> find_needles(const language_model::Model<float>& model, const Vector<float>& parameters,
                                  const Options& options, transformer::ThreadPool& pool);

}  // namespace needle
