// SPDX-License-Identifier: MIT

#include "vocabulary.hpp"

#include <cstdlib>
#include <stdexcept>
#include <utility>

#ifdef LANGUAGE_MODEL_SENTENCEPIECE
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>
#endif

namespace language_model {

#ifdef LANGUAGE_MODEL_SENTENCEPIECE

struct Vocabulary::Pieces {
  std::string serialized;
  sentencepiece::SentencePieceProcessor processor;
  std::vector<std::string> texts;  // of each token
};

namespace {

void check(const sentencepiece::util::Status& status) {
  if (!status.ok()) throw std::runtime_error("SentencePiece: " + status.ToString());
}

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::string& text) : text_(text) { read(); }
  bool done() const override { return is_done_; }
  void Next() override { read(); }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void read() {
    is_done_ = position_ >= text_.size();
    if (is_done_) return;
    const std::size_t end = std::min(text_.find('\n', position_), text_.size());
    line_ = text_.substr(position_, end - position_);
    position_ = end + 1;
  }

  const std::string& text_;
  std::string line_;
  std::size_t position_ = 0;
  bool is_done_ = false;
};

// A space is written as U+2581 in pieces, a byte as <0x0A>.
std::string text_of(const sentencepiece::SentencePieceProcessor& processor, int id) {
  const std::string& piece = processor.IdToPiece(id);
  if (processor.IsByte(id)) return std::string(1, char(std::strtol(piece.c_str() + 1, nullptr, 16)));
  if (processor.IsControl(id) || processor.IsUnknown(id)) return {};
  static const std::string space = "\xE2\x96\x81";
  std::string text;
  for (std::size_t i = 0; i < piece.size();) {
    const bool is_space = piece.compare(i, space.size(), space) == 0;
    text += is_space ? ' ' : piece[i];
    i += is_space ? space.size() : 1;
  }
  return text;
}

}  // namespace

Vocabulary Vocabulary::train(const std::string& text, Index pieces) {
  require(pieces >= 300 && pieces <= 65536, "pieces must be between 300 (256 bytes and some) and 65536");
  Lines lines(text);
  std::string serialized;
  check(sentencepiece::SentencePieceTrainer::Train(
      "--model_type=bpe --normalization_rule_name=identity --remove_extra_whitespaces=false --add_dummy_prefix=false "
      "--byte_fallback=true --split_digits=true --max_sentence_length=100000 --bos_id=-1 --eos_id=-1 "
      "--minloglevel=2 --vocab_size=" +
          std::to_string(pieces),
      &lines, &serialized));
  return deserialize(serialized);
}

Vocabulary Vocabulary::deserialize(const std::string& bytes) {
  Vocabulary vocabulary;
  if (bytes.empty()) return vocabulary;
  auto pieces = std::make_shared<Pieces>();
  pieces->serialized = bytes;
  check(pieces->processor.LoadFromSerializedProto(bytes));
  for (int id = 0; id < pieces->processor.GetPieceSize(); ++id) pieces->texts.push_back(text_of(pieces->processor, id));
  vocabulary.pieces_ = std::move(pieces);
  return vocabulary;
}

const std::string& Vocabulary::serialized() const {
  static const std::string none;
  return pieces_ ? pieces_->serialized : none;
}

Index Vocabulary::size() const { return pieces_ ? Index(pieces_->texts.size()) : 256; }

std::string Vocabulary::decode(Token token) const {
  return pieces_ ? pieces_->texts.at(token) : std::string(1, char(token));
}

#else

struct Vocabulary::Pieces {};

namespace {
[[noreturn]] void fail() {
  throw std::runtime_error(
      "subword vocabularies need SentencePiece, and this program was built without it. On Debian and Ubuntu: apt-get "
      "install libsentencepiece-dev, and build again");
}
}  // namespace

Vocabulary Vocabulary::train(const std::string&, Index) { fail(); }
Vocabulary Vocabulary::deserialize(const std::string& bytes) {
  if (!bytes.empty()) fail();
  return {};
}
const std::string& Vocabulary::serialized() const {
  static const std::string none;
  return none;
}
Index Vocabulary::size() const { return 256; }
std::string Vocabulary::decode(Token token) const { return std::string(1, char(token)); }

#endif

std::vector<Token> Vocabulary::encode(const std::string& text) const {
  std::vector<Token> tokens;
#ifdef LANGUAGE_MODEL_SENTENCEPIECE
  if (pieces_) {
    std::string decoded;
    for (std::size_t begin = 0; begin < text.size();) {  // line by line: a whole book is too long a sentence
      const std::size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
      std::vector<int> ids;
      check(pieces_->processor.Encode(text.substr(begin, end - begin), &ids));
      for (const int id : ids) {
        tokens.push_back(Token(id));
        decoded += pieces_->texts[std::size_t(id)];
      }
      begin = end;
    }
    if (decoded != text)
      throw std::invalid_argument("a subword vocabulary needs a text in UTF-8, and this text is not");
    return tokens;
  }
#endif
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

}  // namespace language_model
