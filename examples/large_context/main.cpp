// SPDX-License-Identifier: MIT
// My tokens do not fit in memory. How do I attend to them?
//
// A source is a function that gives the next tokens, here from a file. causal_stream() attends to them in order, with
// the bits of one call over all of them. write_stream() makes a context of them, which is then saved, loaded, and read
// by several threads at once. What is kept does not depend on the length of the file.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <gma/gma.hpp>
#include <iostream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using gma::Index;
using Matrix = gma::Matrix<float>;

constexpr Index components = 32, dim = 16;

/// Tokens from a file in which a token is a key of `dim` floats and then a value of as many. Queries are the keys.
class FileSource {
 public:
  explicit FileSource(const std::string& path) : file_(path, std::ios::binary) {
    if (!file_) throw std::runtime_error("cannot open " + path);
  }

  bool operator()(gma::TokenBlock<float>& block) {
    rows_.resize(500, 2 * dim);
    const std::streamsize token = 2 * dim * static_cast<std::streamsize>(sizeof(float));
    file_.read(reinterpret_cast<char*>(rows_.data()), 500 * token);
    if (file_.gcount() % token != 0) throw std::runtime_error("the file ends inside a token");
    const Index count = static_cast<Index>(file_.gcount() / token);
    block.keys = rows_.topLeftCorner(count, dim);
    block.queries = block.keys;
    block.values = rows_.topRightCorner(count, dim);
    return count > 0;
  }

 private:
  std::ifstream file_;
  Matrix rows_;
};

/// Writes a file of random tokens, a few at a time.
void make_file(const std::string& path, Index count) {
  std::ofstream file(path, std::ios::binary);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (Index i = 0; i < count * 2 * dim; ++i) {
    const float number = normal(random);
    file.write(reinterpret_cast<const char*>(&number), sizeof number);
  }
}

int main() {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("gma_large_context" + std::to_string(std::random_device()()));
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "tokens").string();
  const Index count = 50001;
  make_file(path, count);
  const auto mixture = gma::compile(gma::random_mixture<float>(components, dim, 1));

  // Outputs come a block at a time. Here they only make a checksum.
  gma::Memory<float> memory;
  double sum = 0;
  const auto sink = [&](const gma::ConstTile<float>& outputs) { sum += outputs.cast<double>().sum(); };
  const Index read = gma::causal_stream(sink, mixture, FileSource(path), memory);

  // The same in one call, which needs all tokens at once.
  FileSource all(path);
  Matrix keys(count, dim), values(count, dim);
  gma::TokenBlock<float> block;
  for (Index row = 0; all(block); row += block.keys.rows()) {
    keys.middleRows(row, block.keys.rows()) = block.keys;
    values.middleRows(row, block.values.rows()) = block.values;
  }
  gma::Memory<float> at_once;
  const Matrix outputs = gma::causal(mixture, keys, keys, values, at_once);
  const bool same = memory.slots == at_once.slots && memory.mass == at_once.mass;

  // A context for many readers: written once, and saved; whoever needs it loads it.
  gma::Memory<float> context, loaded;
  gma::write_stream(mixture, FileSource(path), context);
  std::stringstream saved;
  gma::save(context, saved);
  gma::load(loaded, saved);
  std::vector<Matrix> answers(4);
  std::vector<std::thread> readers;
  for (Matrix& answer : answers) {
    readers.emplace_back([&] { answer = gma::read(mixture, keys.topRows(300), loaded); });
  }
  for (std::thread& reader : readers) reader.join();
  const Matrix expected = gma::read(mixture, keys.topRows(300), context);
  const bool all_same = std::all_of(answers.begin(), answers.end(), [&](const Matrix& a) { return a == expected; });
  std::filesystem::remove_all(folder);

  const double difference = std::abs(sum - outputs.cast<double>().sum());
  std::cout << std::boolalpha << read << " tokens of a file, " << gma::bytes(memory) << " bytes of memory after them\n"
            << "  memory bit-identical to that of one call:       " << same << '\n'
            << "  sums of the outputs differ by                   " << difference << '\n'
            << "  readers of the saved context have the same bits: " << all_same << '\n';
  return read == count && same && all_same && difference < 1e-6 ? 0 : 1;
}
