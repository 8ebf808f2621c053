// SPDX-License-Identifier: MIT
// time write LAYER.safetensors D      a layer of width D with 8 heads
// time run LAYER.safetensors N...     for each N, the CPU milliseconds of one forward pass over N tokens in one thread,
//                                     one line each; one token is a step of a stream
#include <algorithm>
#include <ctime>
#include <exception>
#include <gma/gma.hpp>
#include <gma/io/layer_safetensors.hpp>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using gma::Index;
using gma::Matrix;

double cpu_ms() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
}

/// The median over 7 measurements of at least 50 ms.
template <class F>
double median_ms(const F& f) {
  f();
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    const double start = cpu_ms();
    int calls = 0;
    for (; cpu_ms() - start < 50; ++calls) f();
    times.push_back((cpu_ms() - start) / calls);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void run(const std::string& path, Index tokens) {
  const auto read = gma::io::read_layer<float>(path);
  const auto layer = gma::compile(read);
  const Matrix<float> x = Matrix<float>::Random(tokens, read.config.width);
  Matrix<float> y(x.rows(), x.cols());
  gma::LayerCache<float> cache;
  gma::LayerState<float> state = gma::begin_stream(layer);
  const double ms = median_ms([&] {
    if (tokens == 1) {
      gma::step_into(y.row(0), layer, x.row(0), state, cache);
    } else {
      gma::forward_into(y, layer, x, cache);
    }
  });
  if (!y.allFinite()) throw std::runtime_error("outputs are not finite");
  std::cout << ms << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string verb = argc >= 4 ? argv[1] : "";
    if (verb == "write") {
      gma::LayerConfig config;
      config.width = std::stol(argv[3]);
      config.heads = 8;
      config.components = {8, 8};
      gma::io::write_layer(argv[2], gma::random_layer<float>(config, 1));
      return 0;
    }
    if (verb == "run") {
      for (int i = 3; i < argc; ++i) run(argv[2], std::stol(argv[i]));
      return 0;
    }
    std::cerr << "usage: " << argv[0] << " write LAYER.safetensors D | run LAYER.safetensors N...\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
