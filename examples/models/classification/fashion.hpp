// SPDX-License-Identifier: MIT
//
// Fashion-MNIST (H. Xiao et al., 2017): 28 x 28 grey images of ten kinds of clothing, 60,000 for training and 10,000
// for the test. An image is a sequence of its 784 pixels, row by row; a token is an intensity, 0 to 255. Nothing tells
// the model which pixels are neighbours in a column: it must learn that from positions.
//
// The files are those of Debian's package dataset-fashion-mnist.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "order.hpp"
#include "task.hpp"
#include "transformer/output_of.hpp"

namespace classification {

// A file of the idx format: two zero bytes, 8 for bytes, the number of dimensions, each of them as four bytes with the
// highest first, then the numbers.
struct Idx {
  std::vector<Index> sizes;
  std::string numbers;
};

inline Idx parse_idx(const std::string& file, const std::string& name) {
  const auto byte = [&](std::size_t i) { return Index(static_cast<unsigned char>(file[i])); };
  require(file.size() >= 4 && byte(0) == 0 && byte(1) == 0 && byte(2) == 8, name + " is not an idx file of bytes");
  Idx idx;
  const std::size_t header = 4 + 4 * std::size_t(byte(3));
  require(file.size() >= header, name + " ends within its header");
  Index size = 1;
  for (std::size_t i = 4; i < header; i += 4) {
    idx.sizes.push_back(byte(i) << 24 | byte(i + 1) << 16 | byte(i + 2) << 8 | byte(i + 3));
    size *= idx.sizes.back();
  }
  require(file.size() == header + std::size_t(size), name + " holds " + std::to_string(file.size() - header) +
                                                         " numbers, its header says " + std::to_string(size));
  idx.numbers = file.substr(header);
  return idx;
}

class Fashion : public Task {
 public:
  static constexpr Index pixels = 28 * 28;

  // The first so many images of the training set and of the test set; 0: all.
  Fashion(const std::string& directory, Index training, Index tests)
      : training_(directory, "train", training), test_(directory, "t10k", tests) {}

  TaskShape shape() const override {
    TaskShape shape;
    shape.vocabulary = 256;
    shape.classes = 10;
    shape.longest = pixels;
    return shape;
  }
  void training(std::uint64_t seed, std::uint64_t n, Example& example) const override {
    training_.get(epoch_order(seed, n, training_.count), example);
  }
  Index tests() const override { return test_.count; }
  void test(Index i, Example& example) const override { test_.get(i, example); }
  double chance() const override { return 0.1; }

 private:
  struct Images {
    Index count = 0;
    std::string images, labels;

    Images(const std::string& directory, const std::string& part, Index most) {
      Idx all = read(directory + "/" + part + "-images-idx3-ubyte.gz");
      Idx classes = read(directory + "/" + part + "-labels-idx1-ubyte.gz");
      require(all.sizes.size() == 3 && all.sizes[1] * all.sizes[2] == pixels && classes.sizes.size() == 1 &&
                  classes.sizes[0] == all.sizes[0],
              directory + " does not hold 28 x 28 images with one label per image");
      images = std::move(all.numbers);
      labels = std::move(classes.numbers);
      count = most > 0 ? (std::min)(most, classes.sizes[0]) : classes.sizes[0];
    }

    void get(Index i, Example& example) const {
      const auto* first = reinterpret_cast<const unsigned char*>(images.data()) + i * pixels;
      example.tokens.assign(first, first + pixels);
      example.places.clear();
      example.targets.assign(1, Token(labels[std::size_t(i)]));
    }

    static Idx read(const std::string& path) {
      const std::string file = output_of("zcat '" + path + "' 2>/dev/null");
      if (file.empty())
        throw std::runtime_error("cannot unpack " + path +
                                 ". On Debian and Ubuntu: apt-get install dataset-fashion-mnist; or give another "
                                 "directory of these files with --data");
      return parse_idx(file, path);
    }
  };

  Images training_, test_;
};

}  // namespace classification
