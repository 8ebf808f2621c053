// SPDX-License-Identifier: MIT
//
// The meaning of a token: a byte, or a piece of text from a small vocabulary that SentencePiece trains (byte pair
// encoding, Sennrich et al. 2016). Pieces are lossless: text that they do not cover becomes bytes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "options.hpp"

namespace language_model {

class Vocabulary {
 public:
  Vocabulary() = default;  // the 256 bytes

  // Learns pieces from this text, which must be UTF-8. Throws std::runtime_error if the program was built without
  // SentencePiece.
  static Vocabulary train(const std::string& text, Index pieces);

  // A trained vocabulary as bytes for a file, and back; empty for the 256 bytes.
  const std::string& serialized() const;
  static Vocabulary deserialize(const std::string& bytes);

  bool is_bytes() const { return pieces_ == nullptr; }
  Index size() const;

  // Throws std::invalid_argument if the text is not UTF-8 and tokens are pieces.
  std::vector<Token> encode(const std::string& text) const;
  std::string decode(Token token) const;

 private:
  struct Pieces;
  std::shared_ptr<const Pieces> pieces_;
};

}  // namespace language_model
