// SPDX-License-Identifier: MIT
// What the tests of gma/io share: tensors of every type and shape, folders that go away, and damaged files.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gma/io/tensor.hpp"
#include "support.hpp"

#if defined(__unix__)
#include <sys/resource.h>

#include <csignal>
#endif

namespace gma_test {

using gma::io::DataType;
using gma::io::make_tensor;
using gma::io::Tensor;

constexpr DataType all_types[] = {DataType::f64, DataType::f32, DataType::f16,    DataType::bf16, DataType::i64,
                                  DataType::i32, DataType::i16, DataType::i8,     DataType::u64,  DataType::u32,
                                  DataType::u16, DataType::u8,  DataType::boolean};

inline const std::vector<std::vector<Index>> some_shapes = {{},     {0},       {1},       {7},          {1, 1},
                                                            {3, 4}, {0, 1000}, {2, 3, 4}, {1, 2, 1, 3}, {2, 0, 3}};

/// Bytes without meaning, for booleans 0 and 1.
inline Tensor some_tensor(DataType type, const std::vector<Index>& shape) {
  Tensor tensor{type, shape, {}};
  tensor.bytes.resize(static_cast<std::size_t>(tensor.size() * gma::io::width_of(type)));
  unsigned char next = 1;
  for (unsigned char& byte : tensor.bytes) {
    byte = type == DataType::boolean ? next & 1 : next;
    next = static_cast<unsigned char>(next * 7 + 3);
  }
  return tensor;
}

/// A new folder, removed at the end.
class Folder {
 public:
  Folder() {
    const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
    path_ =
        std::filesystem::path(testing::TempDir()) / (std::string("gma_") + test.test_suite_name() + "_" + test.name());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

inline void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}
inline std::string contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}
inline const unsigned char* bytes_of(const std::string& text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

/// f(bytes, at) for `good` cut off before byte `at`, for each, and for it with byte `at` changed, several ways each.
template <class F>
void for_each_damage(const std::vector<unsigned char>& good, F&& f) {
  for (std::size_t at = 0; at < good.size(); ++at) {
    f(std::vector<unsigned char>(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(at)), at);
    std::vector<unsigned char> changed = good;
    for (const int mask : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      changed[at] = static_cast<unsigned char>(good[at] ^ mask);
      f(changed, at);
    }
  }
}

/// Calls f() while no file can grow beyond so many bytes. False, and no call, where the system has no such limit.
template <class F>
bool with_small_files(F&& f, std::size_t most = 1 << 16) {
#if defined(__unix__)
  rlimit before{};
  if (getrlimit(RLIMIT_FSIZE, &before) != 0) return false;
  rlimit small_files = before;
  small_files.rlim_cur = most;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);  // else it ends the program
  const bool limited = setrlimit(RLIMIT_FSIZE, &small_files) == 0;
  if (limited) f();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  return limited;
#else
  static_cast<void>(most);
  return false;
#endif
}

}  // namespace gma_test
