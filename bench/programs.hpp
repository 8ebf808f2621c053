// SPDX-License-Identifier: MIT
// The compared programs, behind one small interface: heads of attention over N tokens, forward or backward, into
// existing matrices. They are compiled once, in programs*.cpp; the benchmarks only count, time and print.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "gma/core/types.hpp"

namespace bench {

using gma::Index;

enum class Operator { gma, sdpa_tiled, sdpa_dense };
enum class Covariance { tied, diagonal };
enum class Pass { forward, backward };
enum class Storage { float32, bfloat16 };

/// The problem to run. N tokens, d columns of queries and keys, e of values, K components. Every head has its own
/// inputs, output and mixture; all heads share a workspace.
struct Problem {
  Operator attention = Operator::gma;
  Pass pass = Pass::forward;
  bool is_causal = false;
  Index tokens = 1024, width = 64, value_width = 64, heads = 1;
  Index components = 64;                         // of gma
  Covariance covariance = Covariance::diagonal;  // of gma
  bool forgets = false;                          // gma: log_forgetting -1/64 at every token
  bool forgets_by_slot = false;                  // gma: slot_log_forgetting from -1/512 to -1/64, slot by slot
  Storage storage = Storage::float32;            // gma forward: of queries, keys, values and output
  Index threads = 1;                             // gma forward: heads in parallel
};

/// "GMA tied K=64, causal, forgetting", "SDPA tiled", ... It contains neither length, heads, pass nor threads.
std::string name(const Problem& problem);
const char* name(Covariance covariance);

/// How the programs were compiled: compiler, flags, version of Eigen, floats in a packet.
struct Build {
  std::string compiler, flags, eigen;
  int packet_floats;
};
Build build();

/// Floating point operations of the matrix products that all heads perform: the multiply-adds of the table in
/// include/gma/kernels/COSTS.md, each counted as two operations.
double useful_flops(const Problem& problem);

/// Bytes that the operator cannot do without at this size: the N x N matrices of the dense form. Else 0.
double necessary_bytes(const Problem& problem);

class Program {
 public:
  virtual ~Program() = default;

  /// One call, always on the same inputs: all heads, one after the other.
  virtual void run() = 0;

  /// Runs, and returns the largest norm-wise relative error of the outputs of the first and the last head against a
  /// slow computation in double. N <= 1024: all outputs against the dense forms. Longer: GMA against itself in double;
  /// SDPA forward and the gradient of its queries in 16 rows against the dense form (gradients of keys and values are
  /// then not checked).
  virtual double error() = 0;

  /// Bytes of output that run() allocates because the operator returns a matrix; 0 if it writes into one.
  virtual std::size_t returned_bytes() const { return 0; }

  /// Bytes of its workspaces now.
  virtual std::size_t workspace_bytes() const { return 0; }
};

/// The error above which a program counts as wrong: float is near 1e-6, a bfloat16 rounds to 2^-9.
double tolerated_error(const Problem& problem);

/// Inputs (standard normal, from a fixed seed per head) and outputs are allocated and touched here; scratch memory is
/// not. Programs that exist at the same time and have the same shape share inputs and outputs.
std::unique_ptr<Program> make_program(const Problem& problem);

/// One decoding step after `context` tokens: run() attends with the newest token of every head. GMA continues its
/// memory; SDPA reads a cache of `context` keys and values. problem.tokens and problem.pass are ignored.
std::unique_ptr<Program> make_decoding_program(const Problem& problem, Index context);

/// A square Eigen product of two float matrices, n x n: it measures the machine in the same run.
std::unique_ptr<Program> make_product_program(Index n);
double product_flops(Index n);

/// Multiply-adds of the widest packets in registers only: the most that one core can do in this build. Fractions of the
/// peak refer to it.
std::unique_ptr<Program> make_peak_program();
double peak_flops();  // per run()

}  // namespace bench
