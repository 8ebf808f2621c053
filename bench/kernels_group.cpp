// SPDX-License-Identifier: MIT
// A group of programs that are timed in the same rounds.
#include <stdexcept>
#include <utility>

#include "kernels.hpp"

namespace bench {
namespace {

constexpr Index product_size = 1024;
constexpr std::size_t peak = 0, product = 1;

}  // namespace

Group::Group(const Rounds& rounds) : rounds_(rounds) {
  add(make_peak_program(), peak_flops(), 1);
  add(make_product_program(product_size), product_flops(product_size), 1);
}

std::size_t Group::add(const Problem& problem) {
  std::unique_ptr<Program> program = make_program(problem);
  const double error = program->error();
  if (!(error <= tolerated_error(problem))) {
    throw std::runtime_error(name(problem) + " computes a wrong result at N = " + std::to_string(problem.tokens) +
                             ": relative error " + std::to_string(error));
  }
  return add(std::move(program), useful_flops(problem), static_cast<double>(problem.heads));
}

std::size_t Group::add(std::unique_ptr<Program> program, double flops, double heads) {
  first_.push_back(warm_up(*program, rounds_.clock));
  programs_.push_back(std::move(program));
  flops_.push_back(flops);
  heads_.push_back(heads);
  return programs_.size() - 1;
}

void Group::measure() {
  std::vector<Program*> programs;
  for (const std::unique_ptr<Program>& program : programs_) programs.push_back(program.get());
  samples_ = round_robin(programs, first_, rounds_);
}

Line Group::of_peak(const std::string& name, std::size_t program) const {
  const double scale = flops_[program] / flops_[peak];
  return {name, ratio(samples_[peak], samples_[program], scale),
          scale * samples_[peak].smallest() / samples_[program].smallest(), "", "FMA peak of one core"};
}

Line Group::product_of_peak() const {
  return of_peak("Eigen product, " + std::to_string(product_size) + "^3", product);
}

Line Group::peak_rate() const {
  const Spread rates = spread_of(samples_[peak], [this](double seconds) { return 1e-9 * flops_[peak] / seconds; });
  return {"FMA peak of one core", rates, rates.largest, "GFLOP/s", "absolute"};
}

Line Group::times(const std::string& name, std::size_t slow, std::size_t fast, const std::string& relative_to) const {
  const double scale = heads_[fast] / heads_[slow];
  return {name, ratio(samples_[slow], samples_[fast], scale),
          scale * samples_[slow].smallest() / samples_[fast].smallest(), "x", relative_to};
}

Line Group::microseconds(const std::string& name, std::size_t program, const std::string& relative_to) const {
  const Spread times = spread_of(samples_[program], [](double seconds) { return 1e6 * seconds; });
  return {name, times, times.smallest, "us", relative_to};
}

}  // namespace bench
