// SPDX-License-Identifier: MIT
//
// How this program was built, for results that others may want to repeat.
#pragma once

#include <Eigen/Core>
#include <filesystem>
#include <string>
#include <system_error>

#include "output_of.hpp"
#include "quoting.hpp"

namespace transformer {

// For example "g++ 12.2.0".
inline std::string compiler() {
#if defined(__clang__)
  return "clang++ " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#else
  return {};
#endif
}

// What the flags of the compiler amount to, in the file that includes this one: whether it optimised, whether
// assertions are on, and Eigen's name of the instruction set.
inline std::string effective_flags() {
  std::string flags;
#ifdef __OPTIMIZE__
  flags += "optimised, ";
#else
  flags += "not optimised, ";
#endif
#ifdef NDEBUG
  flags += "without assertions, ";
#else
  flags += "with assertions, ";
#endif
  return flags + Eigen::SimdInstructionSetsInUse();
}

// The present commit of the repository of this file or, if the compiler did not get its whole path, of the folder of
// the program (`git describe`; "-dirty": with changes that are not committed). Empty if there is no repository or no
// git. A program that was built at an earlier commit does not notice.
inline std::string commit() {
  std::filesystem::path file = __FILE__;
  std::error_code error;
  if (!file.is_absolute()) file = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return {};
  const std::string folder = file.parent_path().string();
  std::string text = output_of("git -C " + shell_word(folder) + " describe --always --dirty --abbrev=12 2>/dev/null");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace transformer
