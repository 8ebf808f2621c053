// SPDX-License-Identifier: MIT

#include "needle.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>

namespace needle {

namespace {

constexpr Index cell = 4, shortest = 256, names = 64;
constexpr Token key_base = 128, value_base = 192;

void require(bool condition, const std::string& what) {
  if (!condition) throw std::invalid_argument("needle: " + what);
}

void check(const language_model::Model<float>& model, const Options& o) {
  require(model.config().vocabulary == 256, "the model has " + std::to_string(model.config().vocabulary) +
                                                " tokens, expected one of bytes, which has 256");
  require(model.is_constant_memory(), std::string("the mixer of the model is ") + name_of(model.config().mixer) +
                                          ", whose state grows with the stream, expected one of constant memory");
  require(o.needles >= 1 && o.needles <= shortest / cell / 2,
          "needles is " + std::to_string(o.needles) + ", expected 1 to " + std::to_string(shortest / cell / 2));
  require(o.longest >= shortest,
          "longest is " + std::to_string(o.longest) + ", expected at least " + std::to_string(shortest));
  require(o.streams >= 1, "streams is " + std::to_string(o.streams) + ", expected at least 1");
  require(o.chunk >= 1, "chunk is " + std::to_string(o.chunk) + ", expected at least 1");
}

template <class T>
void shuffle(std::vector<T>& items, const std::function<Index(Index)>& uniform) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[std::size_t(uniform(Index(i)))]);
}

}  // namespace

Stream::Stream(const Options& options, Index number)
    : random_(options.seed * 0x9E3779B97F4A7C15u + std::uint64_t(number)) {
  std::vector<Token> keys(std::size_t(names), 0);
  std::iota(keys.begin(), keys.end(), key_base);
  shuffle(keys, [this](Index count) { return uniform(count); });
  keys_.assign(keys.begin(), keys.begin() + options.needles);
  for (Index i = 0; i < options.needles; ++i) values_.push_back(Token(value_base + uniform(names)));
  padding_ = letters(options.needles);
}

// SplitMix64; the remainder's bias is below 2^-50.
Index Stream::uniform(Index count) {
  std::uint64_t z = random_ += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return Index((z ^ (z >> 31)) % std::uint64_t(count));
}

std::vector<Token> Stream::letters(Index count) {
  std::vector<Token> result(static_cast<std::size_t>(count));
  for (Token& token : result) token = Token('a' + uniform(26));
  return result;
}

std::vector<Token> Stream::needles() const {
  std::vector<Token> result;
  for (std::size_t i = 0; i < keys_.size(); ++i)
    for (const Token token : {Token('!'), keys_[i], values_[i], padding_[i]}) result.push_back(token);
  return result;
}

Questions Stream::questions() {
  std::vector<std::size_t> order(keys_.size());
  std::iota(order.begin(), order.end(), std::size_t(0));
  shuffle(order, [this](Index count) { return uniform(count); });
  Questions result;
  for (const std::size_t i : order) {
    const std::vector<Token> rest = letters(cell - 2);
    result.tokens.insert(result.tokens.end(), {Token('?'), keys_[i]});
    result.tokens.insert(result.tokens.end(), rest.begin(), rest.end());
    result.values.push_back(values_[i]);
  }
  return result;
}

std::vector<Answers> find_needles(const language_model::Model<float>& model, const Vector<float>& parameters,
                                  const Options& options, transformer::ThreadPool& pool) {
  check(model, options);
  std::vector<Answers> none;
  for (Index length = shortest; length <= options.longest; length *= 2) none.push_back({length, 0, 0, 0, 0});
  std::vector<std::vector<Answers>> of_stream(std::size_t(options.streams), none);

  pool.parallel_for(options.streams, [&](Index number, Index) {
    Stream stream(options, number);
    auto cache = model.make_cache();
    auto state = model.make_state(), branch = model.make_state();
    Index at = 0;
    const auto read = [&](const std::vector<Token>& tokens) {
      for (Index i = 0; i < Index(tokens.size()); i += options.chunk)
        model.forward(parameters, tokens.data() + i, (std::min)(options.chunk, Index(tokens.size()) - i), &state,
                      cache);
      at += Index(tokens.size());
    };
    read(stream.needles());
    for (Answers& answers : of_stream[std::size_t(number)]) {
      const Index begin = answers.length - cell * options.needles;  // of the questions
      while (at < begin) read(stream.letters((std::min)(options.chunk, begin - at)));
      std::stringstream saved;
      state.save(saved);
      branch.load(saved);
      const Questions questions = stream.questions();
      model.forward(parameters, questions.tokens.data(), Index(questions.tokens.size()), &branch, cache);
      for (Index i = 0; i < options.needles; ++i) {
        const auto logits = cache.logits.row(cell * i + 1);
        const Index value = questions.values[std::size_t(i)];
        Index best = 0;
        const double most = double(logits.maxCoeff(&best));
        answers.nats +=
            most + std::log((logits.array() - float(most)).exp().cast<double>().sum()) - double(logits(value));
        answers.right += best == value;
        ++answers.asked;
      }
      answers.state_bytes = state.bytes();
    }
  });

  for (const auto& stream : of_stream) {
    for (std::size_t i = 0; i < none.size(); ++i) {
      none[i].asked += stream[i].asked;
      none[i].right += stream[i].right;
      none[i].nats += stream[i].nats;
      none[i].state_bytes = stream[i].state_bytes;
    }
  }
  for (Answers& answers : none) answers.nats /= double(answers.asked);
  return none;
}

}  // namespace needle
