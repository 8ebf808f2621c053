// SPDX-License-Identifier: MIT
// All ranks of a call must agree on its function, shapes, options and parameters. They compare them in one collective
// of some 400 bytes before any work. If something does not fit, on one rank or between ranks, every rank throws the
// same std::invalid_argument, which names the rank.
#pragma once

#include <array>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "gma/core/binary.hpp"
#include "gma/mixture/mixture.hpp"
#include "gma/mixture/natural.hpp"
#include "gma/mpi/communicator.hpp"

namespace gma::mpi::detail {

using gma::detail::concatenate, gma::detail::fnv_1a, gma::detail::fnv_start, gma::detail::invalid_argument,
    gma::detail::raise;

/// A hash of numbers, bit by bit.
class Digest {
 public:
  template <class S>
  void add(const S* numbers, Index count) {
    static_assert(std::is_arithmetic_v<S>, "gma::mpi: numbers are sent as their bytes, so they are float or double");
    hash_ = fnv_1a(hash_, reinterpret_cast<const char*>(numbers), static_cast<std::size_t>(count) * sizeof(S));
  }
  /// Not negative, so that its negative exists too.
  std::int64_t value() const { return static_cast<std::int64_t>(hash_ >> 1); }

 private:
  std::uint64_t hash_ = fnv_start;
};

// The first argument is there for its type. A feature map has no parameters.
template <class Any, class M, class F>
void visit_blocks(const Any*, M&, const F&) {}
template <class S, class Covariance, class M, class F>
void visit_blocks(const Mixture<S, Covariance>*, M& mixture, const F& f) {
  f(mixture.weight_logits.data(), mixture.weight_logits.size());
  f(mixture.means.data(), mixture.means.size());
  f(mixture.log_scales.data(), mixture.log_scales.size());
  f(&mixture.log_temperature, Index(1));
}
template <class S, class Covariance, class M, class F>
void visit_blocks(const ProductMixture<S, Covariance>*, M& mixture, const F& f) {
  for (auto& factor : mixture.factors) visit_blocks(&factor, factor, f);
}
template <class S, class M, class F>
void visit_blocks(const CompiledMixture<S>*, M& mixture, const F& f) {
  for (auto& factor : mixture.factors) {
    f(factor.weights.data(), factor.weights.size());
    f(factor.bias.data(), factor.bias.size());
  }
}

/// f(first number, how many) for every parameter of a mixture, const or not.
template <class M, class F>
void for_each_block(M& mixture, const F& f) {
  visit_blocks(&mixture, mixture, f);
}

class Agreement {
 public:
  Agreement(Communicator& communicator, const char* function) : communicator_(communicator), function_(function) {
    Digest digest;
    digest.add(function, static_cast<Index>(std::strlen(function)));
    values_[0] = digest.value();
  }

  /// A number that must be the same on every rank. `name` must outlive the object.
  void add(const char* name, std::int64_t value) {
    names_[count_] = name;
    values_[count_++] = value;
  }
  /// The same for what only some ranks can know.
  void add_if(bool is_known, const char* name, std::int64_t value) { add(name, is_known ? value : unknown); }
  /// The same for what is too much to print.
  void add(const char* name, const Digest& digest) {
    is_digest_[count_] = true;
    add(name, digest.value());
  }
  /// What this rank can check alone: an exception of check() becomes the error of all ranks.
  template <class Check>
  void check_here(const Check& check) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
    if (!fault_.empty()) return;
    try {
      check();
    } catch (const std::exception& error) {
      fault_ = error.what();
    }
#else
    check();
#endif
  }
  bool is_sound_here() const { return fault_.empty(); }

  /// Collective.
  void finish() {
    communicator_.count_agreement();
    values_[1] = fault_.empty() ? 0 : 1;
    std::array<std::int64_t, 2 * most> bounds{};
    for (std::size_t i = 0; i < most; ++i) {
      bounds[i] = values_[i];
      bounds[most + i] = values_[i] == unknown ? unknown : -values_[i];
    }
    MPI_Allreduce(MPI_IN_PLACE, bounds.data(), static_cast<int>(2 * most), MPI_INT64_T, MPI_MIN,
                  communicator_.handle());
    const auto differs = [&](std::size_t i) { return bounds[i] != unknown && bounds[i] != -bounds[most + i]; };
    if (differs(0)) report_functions();
    if (bounds[most + 1] != 0) report_fault();
    for (std::size_t i = 2; i < most; ++i) {
      if (differs(i)) report_difference(i);
    }
  }

 private:
  static constexpr std::size_t most = 26, text_size = 400;
  static constexpr std::int64_t unknown = (std::numeric_limits<std::int64_t>::max)();

  [[noreturn]] void report_functions() {
    const std::vector<std::string> names = gather(function_);
    std::size_t r = 1;
    while (r + 1 < names.size() && names[r] == names[0]) ++r;
    raise<std::invalid_argument>(concatenate("gma::mpi: rank 0 calls gma::", names[0], " and rank ", r,
                                             " gma::", names[r], ", expected the same call on every rank"));
  }
  [[noreturn]] void report_fault() {
    const std::vector<std::string> faults = gather(fault_);
    std::size_t r = 0;
    while (r + 1 < faults.size() && faults[r].empty()) ++r;
    raise<std::invalid_argument>(concatenate(faults[r], ", on rank ", r));
  }
  [[noreturn]] void report_difference(std::size_t i) {
    const std::vector<std::string> texts = gather(values_[i] == unknown ? "" : std::to_string(values_[i]));
    std::size_t a = 0;
    while (a + 1 < texts.size() && texts[a].empty()) ++a;
    std::size_t b = a + 1;
    while (b + 1 < texts.size() && (texts[b].empty() || texts[b] == texts[a])) ++b;
    if (is_digest_[i]) {
      invalid_argument(function_, names_[i], " differ between rank ", a, " and rank ", b,
                       ", expected the same on every rank");
    }
    invalid_argument(function_, names_[i], " is ", texts[a], " on rank ", a, " and ", texts[b], " on rank ", b,
                     ", expected the same on every rank");
  }
  /// The text of every rank.
  std::vector<std::string> gather(const std::string& text) const {
    std::array<char, text_size> mine{};
    std::memcpy(mine.data(), text.data(), (std::min)(text.size(), text_size - 1));
    const std::size_t ranks = static_cast<std::size_t>(communicator_.size());
    std::vector<char> all(text_size * ranks);
    MPI_Allgather(mine.data(), static_cast<int>(text_size), MPI_CHAR, all.data(), static_cast<int>(text_size), MPI_CHAR,
                  communicator_.handle());
    std::vector<std::string> texts;
    for (std::size_t r = 0; r < ranks; ++r) texts.emplace_back(all.data() + r * text_size);
    return texts;
  }

  Communicator& communicator_;
  const char* function_;
  std::string fault_;
  std::array<std::int64_t, most> values_{};
  std::array<const char*, most> names_{};
  std::array<bool, most> is_digest_{};
  std::size_t count_ = 2;  // after the function and the fault
};

}  // namespace gma::mpi::detail
