// SPDX-License-Identifier: MIT
// Gaussian mixture attention as a program to be compared.
#include <cmath>

#include "gma/gma.hpp"
#include "programs_common.hpp"

namespace bench {
namespace {

/// Means and temperature as a model starts with them: means from Normal(0, I), unit scales, tau = sqrt(d).
template <class Family>
gma::Mixture<float, Family> make_mixture(const Problem& p) {
  gma::Mixture<float, Family> mixture(p.components, p.width);
  mixture.means = normal_matrix(p.components, p.width, 5);
  mixture.log_temperature = 0.5F * std::log(static_cast<float>(p.width));
  return mixture;
}

template <class S, class Family>
void gma_forward(const gma::Mixture<S, Family>& mixture, const Inputs<S>& in, bool is_causal, Matrix<S>& out,
                 gma::Workspace<S>& workspace) {
  const gma::TokenInputs<S> tokens;
  if (is_causal) {
    gma::causal_into(out, mixture, in.queries, in.keys, in.values, gma::Options{}, tokens, workspace);
  } else {
    gma::bidirectional_into(out, mixture, in.queries, in.keys, in.values, gma::Options{}, tokens, workspace);
  }
}

template <class S, class Family>
void gma_backward(const gma::Mixture<S, Family>& mixture, const Inputs<S>& in, bool is_causal,
                  gma::Gradients<gma::Mixture<S, Family>>& gradients, gma::Workspace<S>& workspace) {
  const gma::TokenInputs<S> tokens;
  if (is_causal) {
    const gma::Memory<S> none;
    gma::causal_backward_into(gradients, mixture, in.queries, in.keys, in.values, in.d_output, none, none,
                              gma::Options{}, tokens, workspace);
  } else {
    gma::bidirectional_backward_into(gradients, mixture, in.queries, in.keys, in.values, in.d_output, gma::Options{},
                                     tokens, workspace);
  }
}

template <class Family>
class GmaProgram : public Program {
 public:
  explicit GmaProgram(const Problem& p) : problem_(p), in_(make_inputs(p)), mixture_(make_mixture<Family>(p)) {
    if (p.pass == Pass::forward) {
      out_.setZero(p.tokens, p.value_width);
    } else {
      gradients_.queries.setZero(p.tokens, p.width);
      gradients_.keys.setZero(p.tokens, p.width);
      gradients_.values.setZero(p.tokens, p.value_width);
    }
  }

  void run() override {
    if (problem_.pass == Pass::forward) {
      gma_forward(mixture_, in_, problem_.is_causal, out_, workspace_);
    } else {
      gma_backward(mixture_, in_, problem_.is_causal, gradients_, workspace_);
    }
  }

  double error() override {
    run();
    const Inputs<double> in = in_.cast<double>();
    const gma::Mixture<double, Family> mixture = mixture_.template cast<double>();
    gma::Workspace<double> workspace;
    if (problem_.pass == Pass::forward) {
      if (problem_.tokens <= checked_densely) {
        return relative_error(out_, gma::reference::attention(mixture, in.queries, in.keys, in.values, gma::Options{},
                                                              problem_.is_causal));
      }
      Matrix<double> exact(problem_.tokens, problem_.value_width);
      gma_forward(mixture, in, problem_.is_causal, exact, workspace);
      return relative_error(out_, exact);
    }
    gma::Gradients<gma::Mixture<double, Family>> exact;
    gma_backward(mixture, in, problem_.is_causal, exact, workspace);
    return std::max({relative_error(gradients_.queries, exact.queries), relative_error(gradients_.keys, exact.keys),
                     relative_error(gradients_.values, exact.values),
                     relative_error(gradients_.mixture.means, exact.mixture.means)});
  }

 private:
  Problem problem_;
  Inputs<float> in_;
  gma::Mixture<float, Family> mixture_;
  gma::Workspace<float> workspace_;
  Matrix<float> out_;
  gma::Gradients<gma::Mixture<float, Family>> gradients_;
};

template <class Family>
class GmaDecoding : public Program {
 public:
  GmaDecoding(const Problem& p, Index context) : in_(make_inputs(p)), mixture_(gma::compile(make_mixture<Family>(p))) {
    out_.setZero(1, p.value_width);
    for (Index t = 0; t < context; t += in_.keys.rows()) {
      gma::write(mixture_, in_.keys, in_.values, memory_);
    }
  }

  void run() override {
    gma::causal_into(out_, mixture_, in_.queries.row(0), in_.keys.row(0), in_.values.row(0), memory_, gma::Options{},
                     gma::TokenInputs<float>{}, workspace_);
  }
  double error() override { return 0; }

 private:
  Inputs<float> in_;
  gma::CompiledMixture<float> mixture_;
  gma::Memory<float> memory_;
  gma::Workspace<float> workspace_;
  Matrix<float> out_;
};

template <class Family>
std::unique_ptr<Program> make_decoding(const Problem& problem, Index context) {
  Problem chunk = problem;
  chunk.tokens = std::min<Index>(context, 1024);
  return std::make_unique<GmaDecoding<Family>>(chunk, context);
}

}  // namespace

std::unique_ptr<Program> make_gma_program(const Problem& problem) {
  if (problem.covariance == Covariance::tied) return std::make_unique<GmaProgram<gma::Tied>>(problem);
  return std::make_unique<GmaProgram<gma::Diagonal>>(problem);
}

std::unique_ptr<Program> make_gma_decoding_program(const Problem& problem, Index context) {
  if (problem.covariance == Covariance::tied) return make_decoding<gma::Tied>(problem, context);
  return make_decoding<gma::Diagonal>(problem, context);
}

}  // namespace bench
