// SPDX-License-Identifier: MIT
// The measurements of gma_bench_kernels: one function per block of the table.
#include <cmath>
#include <cstdio>

#include "affinity.hpp"
#include "executor.hpp"
#include "kernels.hpp"

namespace bench {
namespace {

using Lines = std::vector<Line>;
constexpr Covariance families[] = {Covariance::tied, Covariance::diagonal};

std::string at(const std::string& what, Index tokens) { return what + ", N = " + std::to_string(tokens); }

void say(const std::string& what) { std::fprintf(stderr, "%s\n", what.c_str()); }

Rounds rounds(const KernelOptions& options, Clock clock = Clock::processor) {
  Rounds result;
  result.rounds = result.long_rounds = options.rounds;
  result.clock = clock;
  return result;
}

Problem gma_problem(const KernelOptions& options, Covariance covariance, Index components, Index tokens) {
  Problem problem;
  problem.covariance = covariance;
  problem.components = components;
  problem.tokens = tokens;
  problem.heads = options.heads;
  return problem;
}

Problem sdpa_problem(Index heads, Index tokens, bool is_causal) {
  Problem problem;
  problem.attention = Operator::sdpa_tiled;
  problem.tokens = tokens;
  problem.heads = heads;
  problem.is_causal = is_causal;
  return problem;
}

Problem causal(Problem problem, bool forgets = false) {
  problem.is_causal = true;
  problem.forgets = forgets;
  return problem;
}

/// Forward, bidirectional, at every length: fractions of the peak.
void forward(const KernelOptions& options, Lines& lines) {
  for (const Index tokens : options.tokens) {
    say(at("forward", tokens));
    Group group(rounds(options));
    std::vector<std::pair<std::string, std::size_t>> members;
    for (const Covariance family : families) {
      for (const Index components : options.components) {
        const Problem problem = gma_problem(options, family, components, tokens);
        members.emplace_back(at("forward, " + name(problem), tokens), group.add(problem));
      }
    }
    group.measure();
    lines.push_back(group.peak_rate());
    lines.push_back(group.product_of_peak());
    for (const auto& [text, program] : members) lines.push_back(group.of_peak(text, program));
  }
}

/// Against tiled softmax attention at one length, per head.
void against_sdpa(const KernelOptions& options, Lines& lines) {
  const Index tokens = options.compared_tokens;
  say(at("against SDPA", tokens));
  Group group(rounds(options));
  const std::size_t full = group.add(sdpa_problem(options.sdpa_heads, tokens, false));
  const std::size_t masked = group.add(sdpa_problem(options.sdpa_heads, tokens, true));
  std::vector<std::size_t> ours;
  for (const Covariance family : families) {
    const Problem problem = gma_problem(options, family, 64, tokens);
    ours.push_back(group.add(problem));
    ours.push_back(group.add(causal(problem)));
  }
  group.measure();
  lines.push_back(group.of_peak(at("forward, SDPA tiled", tokens), full));
  lines.push_back(group.of_peak(at("forward, SDPA tiled, causal", tokens), masked));
  std::size_t i = 0;
  for (const Covariance family : families) {
    for (const bool is_causal : {false, true}) {
      Problem problem = gma_problem(options, family, 64, tokens);
      problem.is_causal = is_causal;
      lines.push_back(group.times(at("times faster, " + name(problem), tokens), is_causal ? masked : full, ours[i++],
                                  is_causal ? "SDPA tiled, causal" : "SDPA tiled"));
    }
  }
}

/// The tokens at which the curve of (tokens, times faster) crosses 1, both axes logarithmic; 0 if it does not.
double crossing(const std::vector<Index>& tokens, const std::vector<double>& times) {
  double found = 0;
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
    const double a = std::log(times[i]), b = std::log(times[i + 1]);
    if (!(a < 0 && b >= 0)) continue;
    const double from = std::log(static_cast<double>(tokens[i])), to = std::log(static_cast<double>(tokens[i + 1]));
    found = std::exp(from + (to - from) * a / (a - b));
  }
  if (found == 0 && times.front() >= 1) found = static_cast<double>(tokens.front());
  return found;
}

/// The length from which on GMA with K = 64 tied is faster.
void crossover(const KernelOptions& options, Lines& lines) {
  const std::vector<Index> swept =
      options.quick ? std::vector<Index>{32, 128, 512} : std::vector<Index>{32, 48, 64, 96, 128, 192, 256, 384, 512};
  for (const bool is_causal : {false, true}) {
    say(is_causal ? "crossover, causal" : "crossover");
    std::vector<double> median, lower, upper, best;
    for (const Index tokens : swept) {
      Group group(rounds(options));
      const std::size_t softmax = group.add(sdpa_problem(options.heads, tokens, is_causal));
      Problem problem = gma_problem(options, Covariance::tied, 64, tokens);
      problem.is_causal = is_causal;
      const std::size_t ours = group.add(problem);
      group.measure();
      const Line times = group.times("", softmax, ours, "");
      median.push_back(times.value.median);
      lower.push_back(times.value.lower);
      upper.push_back(times.value.upper);
      best.push_back(times.best);
    }
    // if GMA looks faster, it overtakes earlier
    Line line{std::string("crossover, GMA tied K=64") + (is_causal ? ", causal" : ""),
              {crossing(swept, median), crossing(swept, upper), crossing(swept, lower), 0, 0},
              crossing(swept, best),
              "tokens",
              "SDPA tiled is faster below (swept from " + std::to_string(swept.front()) + " to " +
                  std::to_string(swept.back()) + "; 0: not reached)"};
    line.value.smallest = line.value.lower;
    line.value.largest = line.value.upper;
    lines.push_back(line);
  }
}

/// Causal over bidirectional, and the backward passes, at one length.
void causal_and_backward(const KernelOptions& options, Lines& lines) {
  const Index tokens = options.compared_tokens;
  Lines ratios, fractions, backward;
  for (const Covariance family : families) {
    for (const Index components : options.components) {
      const Problem problem = gma_problem(options, family, components, tokens);
      say("causal and backward, " + at(name(problem), tokens));
      Group group(rounds(options));
      const std::size_t full = group.add(problem), masked = group.add(causal(problem));
      const std::size_t forgetting = group.add(causal(problem, true));
      Problem back = problem;
      back.pass = Pass::backward;
      const std::size_t full_back = group.add(back), masked_back = group.add(causal(back));
      group.measure();
      const std::string forward_time = "time of bidirectional";
      ratios.push_back(group.times(at("time of " + name(causal(problem)), tokens), masked, full, forward_time));
      ratios.push_back(
          group.times(at("time of " + name(causal(problem, true)), tokens), forgetting, full, forward_time));
      fractions.push_back(group.of_peak(at("forward, " + name(causal(problem)), tokens), masked));
      fractions.push_back(group.of_peak(at("forward, " + name(causal(problem, true)), tokens), forgetting));
      backward.push_back(group.of_peak(at("backward, " + name(back), tokens), full_back));
      backward.push_back(group.of_peak(at("backward, " + name(causal(back)), tokens), masked_back));
    }
  }
  for (const Lines& block : {ratios, fractions, backward}) lines.insert(lines.end(), block.begin(), block.end());
}

/// Slots that forget at their own rates over one forgetting for all, causal, at one length.
void forgetting_of_slots(const KernelOptions& options, Lines& lines) {
  const Index tokens = options.compared_tokens;
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    Problem one_rate = causal(gma_problem(options, Covariance::diagonal, 64, tokens), true);
    one_rate.pass = pass;
    Problem by_slot = one_rate;
    by_slot.forgets_by_slot = true;
    say("forgetting of slots, " + at(name(by_slot), tokens));
    Group group(rounds(options));
    const std::size_t common = group.add(one_rate), own = group.add(by_slot);
    group.measure();
    lines.push_back(
        group.times(at(std::string(pass == Pass::forward ? "time of " : "time of backward, ") + name(by_slot), tokens),
                    own, common, "one forgetting for all slots"));
  }
}

/// Heads in parallel, by wall time on all CPUs: on a busy machine this says little.
void threads(const KernelOptions& options, Lines& lines) {
  const Index tokens = options.compared_tokens;
  say(at("threads", tokens));
  std::vector<Index> counts{2};
  if (options.threads > 2) counts.push_back(options.threads);
  for (const bool is_causal : {false, true}) {
    Problem problem = gma_problem(options, Covariance::tied, 64, tokens);
    problem.is_causal = is_causal;
    Group group(rounds(options, Clock::wall));
    const std::size_t one = group.add(problem);
    std::vector<std::size_t> more;
    for (const Index count : counts) {
      problem.threads = count;
      more.push_back(group.add(problem));
    }
    group.measure();
    for (std::size_t i = 0; i < counts.size(); ++i) {
      lines.push_back(group.times(
          at(std::to_string(counts[i]) + " threads over " + std::to_string(options.heads) + " heads, " + name(problem),
             tokens),
          one, more[i], std::string("one thread, wall time, ") + executor_name()));
    }
  }
}

/// A decoding step of all heads after many tokens.
void decoding(const KernelOptions& options, Lines& lines) {
  constexpr Index early = 1024, cache = 8192;
  say("decoding");
  const auto heads = static_cast<double>(options.heads);
  Group group(rounds(options));
  const std::size_t softmax = group.add(make_decoding_program(sdpa_problem(options.heads, 1, false), cache), 1, heads);
  std::vector<std::size_t> members;
  for (const Covariance family : families) {
    const Problem step = causal(gma_problem(options, family, 64, 1));
    for (const Index position : {early, options.late_position}) {
      members.push_back(group.add(make_decoding_program(step, position), useful_flops(step), heads));
    }
  }
  group.measure();
  const std::string step_of = "a step of " + std::to_string(options.heads) + " heads, ";
  lines.push_back(group.microseconds(step_of + "SDPA, cache of " + std::to_string(cache), softmax, "absolute"));
  for (std::size_t f = 0; f < 2; ++f) {
    const std::size_t soon = members[2 * f], late = members[2 * f + 1];
    const std::string what = step_of + name(gma_problem(options, families[f], 64, 1)) + ", position ";
    const std::string last = std::to_string(options.late_position);
    lines.push_back(group.microseconds(what + std::to_string(early), soon, "absolute"));
    lines.push_back(group.microseconds(what + last, late, "absolute"));
    lines.push_back(group.times("time of " + what + last, late, soon, "position " + std::to_string(early)));
    lines.push_back(
        group.times("times faster, " + what + last, softmax, late, "SDPA with a cache of " + std::to_string(cache)));
  }
}

void errors(const KernelOptions& options, Lines& lines) {
  for (const bool is_causal : {false, true}) {
    Problem problem = gma_problem(options, Covariance::tied, 64, options.long_tokens);
    problem.is_causal = is_causal;
    problem.heads = 2;
    say(at("error of " + name(problem), problem.tokens));
    const double error = make_program(problem)->error();
    lines.push_back({at("relative error (Frobenius), " + name(problem), problem.tokens),
                     {error, error, error, error, error},
                     error,
                     "error",
                     "double"});
  }
}

void storage(const KernelOptions& options, Lines& lines) {
  const Index tokens = options.compared_tokens;
  say(at("bfloat16", tokens));
  for (const bool is_causal : {false, true}) {
    Problem problem = gma_problem(options, Covariance::tied, 64, tokens);
    problem.is_causal = is_causal;
    Group group(rounds(options));
    const std::size_t wide = group.add(problem);
    problem.storage = Storage::bfloat16;
    const std::size_t narrow = group.add(problem);
    group.measure();
    lines.push_back(group.times(at("time of " + name(problem), tokens), narrow, wide, "float storage"));
  }
}

}  // namespace

std::vector<Line> kernel_lines(const KernelOptions& options) {
  Lines lines;
  {
    const Pinned pinned(options.cpu);
    say(pinned.cpu() < 0 ? "not pinned" : "pinned to CPU " + std::to_string(pinned.cpu()));
    forward(options, lines);
    against_sdpa(options, lines);
    crossover(options, lines);
    causal_and_backward(options, lines);
    forgetting_of_slots(options, lines);
    decoding(options, lines);
    storage(options, lines);
    errors(options, lines);
  }
  threads(options, lines);
  return lines;
}

}  // namespace bench
