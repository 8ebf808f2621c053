// SPDX-License-Identifier: MIT
// The programs that are compared, behind one small interface: one head of attention over N tokens, forward or backward,
// into matrices that exist already. Compiled once, in programs*.cpp; the benchmarks only count, time and print.
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

/// What is run. N tokens, d columns of queries and keys, e of values, K components.
struct Problem {
  Operator attention = Operator::gma;
  Pass pass = Pass::forward;
  bool is_causal = false;
  Index tokens = 1024, width = 64, value_width = 64;
  Index components = 64;                         // of gma
  Covariance covariance = Covariance::diagonal;  // of gma
};

/// "GMA K=64, causal", "SDPA tiled", ...
std::string name(const Problem& problem);

/// How the programs were compiled: compiler, flags, version of Eigen, floats in a packet.
struct Build {
  std::string compiler, flags, eigen;
  int packet_floats;
};
Build build();

/// Floating point operations of the matrix products, a multiply-add counted as two; exponentials, maxima and sums are
/// not counted. GMA forward: 2 N K (2 D + 2 e), D = d tied, 2 d diagonal. SDPA forward: 2 N^2 (d + e), half of it
/// causal. Backward: 2.5 times the forward (10 products to its 4; 5 to SDPA's 2), GMA causal 3 times (12).
double useful_flops(const Problem& problem);

/// Bytes that the operator cannot do without at this size by its nature: the N x N matrices of the dense form. Else 0.
double necessary_bytes(const Problem& problem);

class Program {
 public:
  virtual ~Program() = default;

  /// One call, on the same inputs every time.
  virtual void run() = 0;

  /// Runs, and returns the largest norm-wise relative error among the outputs against a slow computation in double:
  /// N <= 1024: all outputs against the dense forms. Longer: GMA against itself in double; SDPA forward and the
  /// gradient of its queries in 16 rows against the dense form (gradients of keys and values are then not checked).
  virtual double error() = 0;

  /// Bytes of output that run() allocates because the operator returns a matrix; 0 where it writes into one.
  virtual std::size_t returned_bytes() const { return 0; }
};

/// Inputs (standard normal, from a fixed seed) and outputs are allocated and touched here; scratch memory is not.
std::unique_ptr<Program> make_program(const Problem& problem);

/// One step of decoding after `context` tokens: run() attends with the newest token. GMA carries its memory on; SDPA
/// reads a cache of `context` keys and values. problem.tokens and problem.pass are ignored.
std::unique_ptr<Program> make_decoding_program(const Problem& problem, Index context);

/// A square product of two float matrices of Eigen's, n x n: the yardstick of the machine in the same run.
std::unique_ptr<Program> make_product_program(Index n);

}  // namespace bench
