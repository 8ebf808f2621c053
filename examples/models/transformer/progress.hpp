// SPDX-License-Identifier: MIT
//
// The progress of a long piece of work: one line that redraws itself on a terminal, elsewhere a plain line now and
// then.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

namespace transformer {

// Seconds since construction, or since the last restart.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void restart() { start_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

class Progress {
 public:
  explicit Progress(bool is_quiet = false) : is_quiet_(is_quiet), is_terminal_(isatty(STDOUT_FILENO) == 1) {}

  // Whether it is time for another line. Ask before composing one.
  bool is_due() const { return !is_quiet_ && (is_first_ || since_.seconds() >= (is_terminal_ ? 0.2 : 10.0)); }

  void show(const std::string& line) {
    if (is_quiet_) return;
    std::printf(is_terminal_ ? "\r%s\033[K" : "%s\n", line.c_str());
    std::fflush(stdout);
    since_.restart();
    is_first_ = false;
  }

  // The last line stays.
  void finish(const std::string& line) {
    if (is_quiet_) return;
    std::printf(is_terminal_ ? "\r%s\033[K\n" : "%s\n", line.c_str());
    std::fflush(stdout);
  }

 private:
  bool is_quiet_, is_terminal_, is_first_ = true;
  Stopwatch since_;
};

// printf into a string.
template <class... Arguments>
std::string format(const char* pattern, Arguments... arguments) {
  const int length = std::snprintf(nullptr, 0, pattern, arguments...);
  std::string text(std::size_t(length), '\0');
  std::snprintf(text.data(), text.size() + 1, pattern, arguments...);
  return text;
}

inline std::string minutes(double seconds) {
  const int total = seconds > 0 ? int(seconds + 0.5) : 0;
  return format("%d:%02d", total / 60, total % 60);
}

}  // namespace transformer
