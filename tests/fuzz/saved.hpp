// SPDX-License-Identifier: MIT
// The property of everything that gma::save writes: gma::load throws std::runtime_error and leaves the target as it
// was, or reads what gma::save writes in the same bytes. Of an older version it writes the newest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "fuzz.hpp"

template <class Saved>
std::string saved(const Saved& object) {
  std::ostringstream stream;
  gma::save(object, stream);
  return stream.str();
}

template <class Saved>
void check_load(const Saved& before, const std::string& bytes) {
  std::istringstream stream(bytes);
  Saved target = before;
  try {
    gma::load(target, stream);
  } catch (const std::runtime_error&) {
    require(saved(target) == saved(before), "a failed load leaves the target as it was");
    return;
  }
  const auto used = static_cast<std::size_t>(stream.tellg());
  const std::string again = saved(target);
  constexpr std::size_t version = 12, size = 4;  // where it lies in the header
  if (bytes.compare(version, size, again, version, size) == 0) {
    require(again == bytes.substr(0, used), "the target is saved in the bytes that it was loaded from");
    return;
  }
  std::istringstream newest(again);
  Saved reloaded = before;
  gma::load(reloaded, newest);
  require(saved(reloaded) == again, "what was loaded from an older version survives a round trip");
}

/// The same bytes with the checksum that fits, without which hardly an input would get any further.
inline std::string with_checksum(std::string bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (std::size_t i = 8; i + 8 < bytes.size(); ++i) {
    hash = (hash ^ static_cast<unsigned char>(bytes[i])) * 0x100000001b3;
  }
  for (std::size_t i = 0; i < 8; ++i) bytes[bytes.size() - 8 + i] = static_cast<char>((hash >> (8 * i)) & 0xff);
  return bytes;
}

template <class Saved>
void check_loads(const Saved& before, const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  check_load(before, bytes);
  if (size >= 16) check_load(before, with_checksum(bytes));
}
