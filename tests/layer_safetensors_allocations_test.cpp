// SPDX-License-Identifier: MIT
// Layers read and written while memory runs out: each allocation of operator new fails once, and what comes of it is an
// exception, a whole file and no other file. (Eigen's own go through malloc and do not fail here.)
#include <cstdlib>
#include <filesystem>
#include <new>
#include <stdexcept>

#include "gma/io/layer_safetensors.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "io_support.hpp"

namespace gma_test {
namespace {

long allocations_left = -1;  // before one fails; -1: none does

void* allocate(std::size_t size) {
  if (allocations_left == 0) throw std::bad_alloc();
  if (allocations_left > 0) --allocations_left;
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

/// f() with the n-th allocation and all further ones failing, for every n. Calls check() after each failure.
template <class F, class Check>
void with_every_failure(const F& f, const Check& check) {
  for (long n = 0; n < 100000; ++n) {
    allocations_left = n;
    bool failed = false;
    try {
      f();
    } catch (const std::bad_alloc&) {
      failed = true;
    } catch (const std::runtime_error&) {  // what a standard stream makes of it
      failed = true;
    }
    allocations_left = -1;
    if (!failed) return;
    check();
  }
  FAIL() << "it never succeeded";
}

TEST(LayerFilesWithoutMemory, EndInExceptions) {
  gma::LayerConfig config;
  config.width = 4;
  config.heads = 1;
  config.components = {2};
  const auto layer = gma::random_layer<float>(config, 1), other = gma::random_layer<float>(config, 2);
  const Folder folder;
  const std::filesystem::path path = folder / "layer.safetensors";
  gma::io::write_layer(folder / "other.safetensors", other);
  gma::io::write_layer(path, layer);
  const std::string before = contents(path), after = contents(folder / "other.safetensors");
  std::filesystem::remove(folder / "other.safetensors");

  with_every_failure([&] { gma::io::read_layer<float>(path); }, [] {});
  with_every_failure([&] { gma::io::write_layer(path, other); },
                     [&] {
                       const std::string found = contents(path);
                       EXPECT_TRUE(found == before || found == after);
                       EXPECT_EQ(folder.names().size(), 1u);
                     });
  EXPECT_EQ(contents(path), after);
}

}  // namespace
}  // namespace gma_test

void* operator new(std::size_t size) { return gma_test::allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
