// SPDX-License-Identifier: MIT
// One sequence over several processes: how well that scales, what it sends, and a model of its cost.
//
//   mpirun -n P gma_bench_mpi
//
// The ranks take turns with one process: in every round rank 0 runs the whole sequence alone, and the ranks run it
// together. Ratios are formed within a round. Times are wall times, so the machine needs P idle cores.
#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "gma/core/random.hpp"
#include "gma/mpi/attention.hpp"
#include "timing.hpp"

namespace {

using gma::Index;
using gma::Matrix;
using gma::mpi::Communicator;
using Mixture = gma::Mixture<float>;

struct Settings {
  Index tokens = 131072, heads = 4, width = 64, components = 64, rounds = 9;
  bool quick = false;
};

struct Problem {
  std::vector<Mixture> mixtures;
  Matrix<float> queries, keys, values, d_output;
  gma::HeadInputs<float> inputs;

  Problem(const Settings& s, Index tokens, std::uint64_t stream) {
    gma::Random same(1), own(2, stream);
    for (Index h = 0; h < s.heads; ++h) {
      mixtures.emplace_back(s.components, s.width);
      for (Index i = 0; i < mixtures.back().means.size(); ++i) {
        mixtures.back().means.data()[i] = static_cast<float>(same.normal());
      }
      mixtures.back().log_temperature = std::log(std::sqrt(static_cast<float>(s.width)));
    }
    for (Matrix<float>* rows : {&queries, &keys, &values, &d_output}) {
      rows->resize(tokens, s.heads * s.width);
      for (Index i = 0; i < rows->size(); ++i) rows->data()[i] = static_cast<float>(2 * own.uniform() - 1);
    }
    inputs.log_forgetting = Matrix<float>::Constant(tokens, s.heads, -1.0f / 512);
  }
};

enum class Pass { bidirectional, causal, bidirectional_backward, causal_backward };
constexpr Pass all_passes[] = {Pass::bidirectional, Pass::causal, Pass::bidirectional_backward, Pass::causal_backward};
const char* name_of(Pass pass) {
  switch (pass) {
    case Pass::bidirectional:
      return "bidirectional";
    case Pass::causal:
      return "causal";
    case Pass::bidirectional_backward:
      return "bidirectional, backward";
    case Pass::causal_backward:
      return "causal, backward";
  }
  return "";
}

void run_alone(Pass pass, const Problem& p) {
  switch (pass) {
    case Pass::bidirectional:
      gma::bidirectional(p.mixtures, p.queries, p.keys, p.values);
      break;
    case Pass::causal:
      gma::causal(p.mixtures, p.queries, p.keys, p.values, {}, p.inputs);
      break;
    case Pass::bidirectional_backward:
      gma::bidirectional_backward(p.mixtures, p.queries, p.keys, p.values, p.d_output);
      break;
    case Pass::causal_backward:
      gma::causal_backward(p.mixtures, p.queries, p.keys, p.values, p.d_output, {}, p.inputs);
      break;
  }
}

/// What the ranks do besides the pass of one process, for all tokens in one process.
void run_extra(Pass pass, const Problem& p) {
  const Index d = p.keys.cols() / static_cast<Index>(p.mixtures.size());
  for (std::size_t h = 0; h < p.mixtures.size(); ++h) {
    const Index at = static_cast<Index>(h) * d;
    gma::TokenInputs<float> tokens;
    tokens.log_forgetting = p.inputs.log_forgetting.col(static_cast<Index>(h));
    gma::Memory<float> memory;
    if (pass == Pass::causal) {
      gma::write(p.mixtures[h], p.keys.middleCols(at, d), p.values.middleCols(at, d), memory, tokens);
    } else if (pass == Pass::causal_backward) {
      memory = gma::empty_memory<float>(p.mixtures[h].components(), d);
      memory.slots.setConstant(1e-3f);
      gma::write_backward(p.mixtures[h], p.keys.middleCols(at, d), p.values.middleCols(at, d), memory, tokens);
    }
  }
}

void run_together(Pass pass, Communicator& ranks, const Problem& p, gma::mpi::Carry<float>& carry) {
  switch (pass) {
    case Pass::bidirectional:
      gma::mpi::bidirectional(ranks, p.mixtures, p.queries, p.keys, p.values);
      break;
    case Pass::causal:
      gma::mpi::causal(ranks, p.mixtures, p.queries, p.keys, p.values, carry, {}, p.inputs);
      break;
    case Pass::bidirectional_backward:
      gma::mpi::bidirectional_backward(ranks, p.mixtures, p.queries, p.keys, p.values, p.d_output);
      break;
    case Pass::causal_backward:
      gma::mpi::causal_backward(ranks, p.mixtures, p.queries, p.keys, p.values, p.d_output, carry, {}, {}, p.inputs);
      break;
  }
}

/// Waits without taking a core.
void meet_quietly(Communicator& ranks) {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(ranks.handle(), &request);
  for (int done = 0; done == 0;) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

double largest(Communicator& ranks, double value) {
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, ranks.handle());
  return value;
}

/// Seconds that rank 0 takes alone.
template <class Call>
double seconds_alone(Communicator& ranks, const Call& call) {
  double seconds = 0;
  if (ranks.rank() == 0) seconds = bench::seconds_of(call, bench::Clock::wall);
  meet_quietly(ranks);
  return largest(ranks, seconds);
}
/// Seconds until all ranks are through.
template <class Call>
double seconds_together(Communicator& ranks, const Call& call) {
  MPI_Barrier(ranks.handle());
  return largest(ranks, bench::seconds_of(call, bench::Clock::wall));
}

/// The largest error over passes of outputs or keys' gradients against one process, for a short sequence.
double check(Communicator& ranks, const Settings& s) {
  const Index tokens = 512 * ranks.size(), own = 512, begin = own * ranks.rank();
  const Problem whole(s, tokens, 0);
  Problem part = whole;
  for (Matrix<float>* rows : {&part.queries, &part.keys, &part.values, &part.d_output, &part.inputs.log_forgetting}) {
    *rows = rows->middleRows(begin, own).eval();
  }
  const auto error = [&](const Matrix<float>& mine, const Matrix<float>& all) {
    return static_cast<double>((mine - all.middleRows(begin, own)).norm() / all.middleRows(begin, own).norm());
  };
  gma::mpi::Carry<float> carry;
  double worst =
      error(gma::mpi::causal(ranks, part.mixtures, part.queries, part.keys, part.values, carry, {}, part.inputs),
            gma::causal(whole.mixtures, whole.queries, whole.keys, whole.values, {}, whole.inputs));
  worst = std::max(worst, error(gma::mpi::bidirectional(ranks, part.mixtures, part.queries, part.keys, part.values),
                                gma::bidirectional(whole.mixtures, whole.queries, whole.keys, whole.values)));
  worst = std::max(worst, error(gma::mpi::causal_backward(ranks, part.mixtures, part.queries, part.keys, part.values,
                                                          part.d_output, carry, {}, {}, part.inputs)
                                    .keys,
                                gma::causal_backward(whole.mixtures, whole.queries, whole.keys, whole.values,
                                                     whole.d_output, {}, whole.inputs)
                                    .keys));
  worst = std::max(
      worst,
      error(gma::mpi::bidirectional_backward(ranks, part.mixtures, part.queries, part.keys, part.values, part.d_output)
                .keys,
            gma::bidirectional_backward(whole.mixtures, whole.queries, whole.keys, whole.values, whole.d_output).keys));
  return largest(ranks, worst);
}

/// Seconds of one message from rank 0 to rank 1, as half of a round trip: the median.
double message_seconds(Communicator& ranks, std::size_t bytes) {
  std::vector<char> buffer(bytes);
  std::vector<double> samples;
  for (int i = 0; i < 60 && ranks.rank() < 2; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const int size = static_cast<int>(bytes), other = ranks.rank() == 0 ? 1 : 0;
    if (ranks.rank() == 0) MPI_Send(buffer.data(), size, MPI_BYTE, other, 9, ranks.handle());
    MPI_Recv(buffer.data(), size, MPI_BYTE, other, 9, ranks.handle(), MPI_STATUS_IGNORE);
    if (ranks.rank() == 1) MPI_Send(buffer.data(), size, MPI_BYTE, other, 9, ranks.handle());
    samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 2);
  }
  meet_quietly(ranks);
  double median = ranks.rank() == 0 ? bench::spread(samples).median : 0;
  MPI_Bcast(&median, 1, MPI_DOUBLE, 0, ranks.handle());
  return median;
}

/// Seconds per message and per byte.
struct Network {
  double latency, per_byte;
  double seconds(double messages, double bytes) const { return messages * latency + bytes * per_byte; }
};

Index rounds_of(Index ranks) {
  Index rounds = 0;
  for (Index step = 1; step < ranks; step *= 2) ++rounds;
  return rounds;
}

/// Numbers of a message of memories, of float: slots and mass, their remainders, and 5 more, per head.
double bytes_of_memories(const Settings& s) {
  return 4.0 * static_cast<double>(s.heads * (2 * (s.components * s.width + s.components) + 5));
}
double bytes_of_parameters(const Settings& s) {
  return 4.0 * static_cast<double>(s.heads * (s.components * (2 * s.width + 1) + 1));
}

/// Seconds of a pass on the longest path: work of one process on 1 / P of the tokens, what ranks do besides, and the
/// messages one after another. Scan: a round is a message. Reduction: a message up and one down per round. An agreement
/// counts as a reduction of 416 bytes.
double modelled(Pass pass, const Settings& s, double alone, double extra, Index count, const Network& net) {
  const double P = static_cast<double>(count), rounds = static_cast<double>(rounds_of(count));
  double seconds = alone / P + (count > 1 ? extra / P : 0) + net.seconds(2 * rounds, 2 * rounds * 416);
  const bool is_causal = pass == Pass::causal || pass == Pass::causal_backward;
  const bool is_backward = pass == Pass::bidirectional_backward || pass == Pass::causal_backward;
  const double memories = is_causal ? rounds : (is_backward ? 4 : 2) * rounds;
  seconds += net.seconds(memories, memories * bytes_of_memories(s));
  if (is_backward) seconds += net.seconds(2 * rounds, 2 * rounds * bytes_of_parameters(s));
  return seconds;
}

void print_load() {
  double load[3] = {0, 0, 0};
  if (getloadavg(load, 3) == 3) std::printf("load averages: %.2f %.2f %.2f\n\n", load[0], load[1], load[2]);
}

void run_all(Communicator& ranks, const Settings& s) {
  const bool prints = ranks.rank() == 0;
  const double P = static_cast<double>(ranks.size());
  const double error = check(ranks, s);
  if (prints) {
    std::printf("%d ranks, %d tokens, %d heads, d = e = %d, K = %d, float; error against one process %.1e\n",
                static_cast<int>(ranks.size()), static_cast<int>(s.tokens), static_cast<int>(s.heads),
                static_cast<int>(s.width), static_cast<int>(s.components), error);
    print_load();
  }
  if (!(error < 1e-4)) throw std::runtime_error("the results differ from those of one process");
  Network here{0, 0};
  if (ranks.size() > 1) {
    here.latency = message_seconds(ranks, 64);
    const std::size_t large = std::size_t(1) << 20;
    here.per_byte = (message_seconds(ranks, large) - here.latency) / static_cast<double>(large);
  }
  const Index own_tokens = s.tokens / ranks.size();
  const Problem own(s, own_tokens, 1 + static_cast<std::uint64_t>(ranks.rank()));
  const Problem whole(s, ranks.rank() == 0 ? own_tokens * ranks.size() : 0, 0);
  gma::mpi::Carry<float> carry;
  if (prints) {
    std::printf("a message takes %.1f us + %.3f us per KiB\n\n", 1e6 * here.latency, 1e6 * here.per_byte * 1024);
    std::printf(
        "| pass | one process, ms | efficiency | of the same work | weak efficiency | measured / model | messages of "
        "rank 0 | their KiB |\n|---|---:|---:|---:|---:|---:|---:|---:|\n");
  }
  std::vector<double> alone_seconds, extra_seconds;
  for (const Pass pass : all_passes) {
    std::vector<double> alone, extra, efficiency, same_work, weak, model;
    gma::mpi::Traffic traffic;
    run_together(pass, ranks, own, carry);
    for (Index round = 0; round < s.rounds; ++round) {
      const double one = seconds_alone(ranks, [&] { run_alone(pass, whole); });
      const double part = seconds_alone(ranks, [&] { run_alone(pass, own); });
      const double more = seconds_alone(ranks, [&] { run_extra(pass, whole); });
      ranks.reset_traffic();
      const double all = seconds_together(ranks, [&] { run_together(pass, ranks, own, carry); });
      traffic = ranks.traffic();
      alone.push_back(one);
      extra.push_back(more);
      efficiency.push_back(one / (P * all));
      same_work.push_back((one + (ranks.size() > 1 ? more : 0)) / (P * all));
      weak.push_back(part / all);
      model.push_back(all / modelled(pass, s, one, more, ranks.size(), here));
    }
    alone_seconds.push_back(bench::spread(alone).median);
    extra_seconds.push_back(bench::spread(extra).median);
    if (!prints) continue;
    const auto print = [](const std::vector<double>& numbers) {
      const bench::Spread spread = bench::spread(numbers);
      std::printf(" %.3f (%.3f, %.3f) |", spread.median, spread.lower, spread.upper);
    };
    std::printf("| %s | %.1f |", name_of(pass), 1e3 * alone_seconds.back());
    print(efficiency);
    print(same_work);
    print(weak);
    print(model);
    std::printf(" %d | %.1f |\n", static_cast<int>(traffic.messages), static_cast<double>(traffic.bytes) / 1024);
  }
  if (!prints) return;
  // Drawn out: the same work per token, over a network that is named.
  const Network cluster{10e-6, 1.0 / 10e9};
  const double tokens = static_cast<double>(own_tokens * ranks.size());
  std::printf(
      "\nThe model for other numbers of ranks and tokens, with the times per token from above and messages of 10 us + "
      "10 "
      "GB/s. Bytes are those that the busiest rank sends; ring attention sends keys and values of all other tokens "
      "once."
      "\n\n| tokens | ranks | causal, s | messages, of the time | backward, s | messages, of the time | KiB per head | "
      "ring attention, KiB per head |\n|---:|---:|---:|---:|---:|---:|---:|---:|\n");
  for (const double all_tokens : {131072.0, 1e9}) {
    for (const Index count : {2, 16, 128, 1024}) {
      const double scale = all_tokens / tokens, rounds = static_cast<double>(rounds_of(count));
      std::printf("| %.0f | %d |", all_tokens, static_cast<int>(count));
      for (const std::size_t i : {std::size_t(1), std::size_t(3)}) {
        const Network none{0, 0};
        const double a = alone_seconds[i] * scale, b = extra_seconds[i] * scale;
        const double seconds = modelled(all_passes[i], s, a, b, count, cluster);
        const double messages = seconds - modelled(all_passes[i], s, a, b, count, none);
        std::printf(" %.4g | %.2g |", seconds, messages / seconds);
      }
      const double per_head = 1024 * static_cast<double>(s.heads);
      const double ring = (1 - 1.0 / static_cast<double>(count)) * all_tokens * 2 * static_cast<double>(s.width) * 4;
      std::printf(" %.1f | %.4g |\n", rounds * bytes_of_memories(s) / per_head, ring / 1024);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  return gma::mpi::run(argc, argv, [&](Communicator& ranks) {
    Settings settings;
    CLI::App app("GMA over several processes");
    app.add_option("--tokens", settings.tokens, "Tokens of the sequence")->capture_default_str();
    app.add_option("--heads", settings.heads, "Heads")->capture_default_str();
    app.add_option("--width", settings.width, "d = e")->capture_default_str();
    app.add_option("--components", settings.components, "K")->capture_default_str();
    app.add_option("--rounds", settings.rounds, "Rounds")->capture_default_str();
    app.add_flag("--quick", settings.quick, "A short sequence and few rounds: only to see that it runs");
    CLI11_PARSE(app, argc, argv);
    if (settings.quick) {
      settings.tokens = 4096;
      settings.rounds = 2;
    }
    run_all(ranks, settings);
    return 0;
  });
}
