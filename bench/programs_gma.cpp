// SPDX-License-Identifier: MIT
// Gaussian mixture attention as programs for the comparison.
#include <cmath>
#include <deque>
#include <type_traits>

#include "executor.hpp"
#include "gma/gma.hpp"
#include "programs_common.hpp"

namespace bench {
namespace {

/// Means and temperature of a new model: means from Normal(0, I), unit scales, tau = sqrt(d).
template <class Family>
gma::Mixture<float, Family> make_mixture(const Problem& p, Index head) {
  gma::Mixture<float, Family> mixture(p.components, p.width);
  mixture.means = normal_matrix(p.components, p.width, seed(head, 5));
  mixture.log_temperature = 0.5F * std::log(static_cast<float>(p.width));
  return mixture;
}

template <class S>
gma::TokenInputs<S> make_tokens(const Problem& p) {
  gma::TokenInputs<S> tokens;
  if (p.forgets) tokens.log_forgetting.setConstant(p.tokens, S(-1.0 / 64));
  if (p.forgets_by_slot) {
    tokens.slot_log_forgetting.resize(p.tokens, p.components);
    for (Index k = 0; k < p.components; ++k) {
      const double slot = static_cast<double>(k) / static_cast<double>(p.components);
      tokens.slot_log_forgetting.col(k).setConstant(static_cast<S>(static_cast<float>(-std::exp2(-9 + 3 * slot))));
    }
  }
  return tokens;
}

template <class S, class T>
void gma_forward(const gma::CompiledMixture<S>& mixture, const Inputs<T>& in, const gma::TokenInputs<S>& tokens,
                 bool is_causal, Matrix<T>& out, gma::Workspace<S>& workspace) {
  if (is_causal) {
    gma::causal_into(out, mixture, in.queries, in.keys, in.values, gma::Options{}, tokens, workspace);
  } else {
    gma::bidirectional_into(out, mixture, in.queries, in.keys, in.values, gma::Options{}, tokens, workspace);
  }
}

template <class S, class Family>
void gma_backward(const gma::Mixture<S, Family>& mixture, const Inputs<S>& in, const gma::TokenInputs<S>& tokens,
                  bool is_causal, gma::Gradients<gma::Mixture<S, Family>>& gradients, gma::Workspace<S>& workspace) {
  if (is_causal) {
    const gma::Memory<S> none;
    gma::causal_backward_into(gradients, mixture, in.queries, in.keys, in.values, in.d_output, none, none,
                              gma::Options{}, tokens, workspace);
  } else {
    gma::bidirectional_backward_into(gradients, mixture, in.queries, in.keys, in.values, in.d_output, gma::Options{},
                                     tokens, workspace);
  }
}

/// The storage of T; shared if it is float.
template <class T>
std::shared_ptr<Heads<T>> make_heads(const Problem& p) {
  const std::shared_ptr<Heads<float>> shared = shared_heads(p);
  if constexpr (std::is_same_v<T, float>) {
    return shared;
  } else {
    const auto heads = std::make_shared<Heads<T>>();
    for (Index h = 0; h < p.heads; ++h) {
      heads->in.push_back(shared->in[static_cast<std::size_t>(h)].template cast<T>());
      heads->out.push_back(Matrix<T>::Zero(p.tokens, p.value_width));
    }
    return heads;
  }
}

template <class Family, class T>
class GmaForward : public Program {
 public:
  explicit GmaForward(const Problem& p)
      : problem_(p), heads_(make_heads<T>(p)), tokens_(make_tokens<float>(p)), executor_(make_executor(p.threads)) {
    for (Index h = 0; h < p.heads; ++h) mixtures_.push_back(gma::compile(make_mixture<Family>(p, h)));
    workspaces_.resize(static_cast<std::size_t>(executor_ ? executor_->workers() : 1));
  }

  void run() override {
    gma::parallel_for(executor_.get(), problem_.heads, [this](Index head, Index worker) {
      const auto h = static_cast<std::size_t>(head);
      gma_forward(mixtures_[h], heads_->in[h], tokens_, problem_.is_causal, heads_->out[h],
                  workspaces_[static_cast<std::size_t>(worker)]);
    });
  }

  double error() override {
    run();
    return largest_error(problem_.heads, [this](Index head) {
      const auto h = static_cast<std::size_t>(head);
      const Inputs<double> in = heads_->in[h].template cast<double>();
      const gma::Mixture<double, Family> mixture = make_mixture<Family>(problem_, head).template cast<double>();
      const gma::TokenInputs<double> tokens = make_tokens<double>(problem_);
      const Matrix<float> out = heads_->out[h].template cast<float>();
      if (problem_.tokens <= checked_densely) {
        return relative_error(out, gma::reference::attention(mixture, in.queries, in.keys, in.values, gma::Options{},
                                                             problem_.is_causal, tokens));
      }
      Matrix<double> exact(problem_.tokens, problem_.value_width);
      gma::Workspace<double> workspace;
      gma_forward(gma::compile(mixture), in, tokens, problem_.is_causal, exact, workspace);
      return relative_error(out, exact);
    });
  }

  std::size_t workspace_bytes() const override {
    std::size_t total = 0;
    for (const gma::Workspace<float>& workspace : workspaces_) total += workspace.bytes();
    return total;
  }

 private:
  Problem problem_;
  std::shared_ptr<Heads<T>> heads_;
  std::vector<gma::CompiledMixture<float>> mixtures_;
  gma::TokenInputs<float> tokens_;
  std::unique_ptr<gma::Executor> executor_;
  std::deque<gma::Workspace<float>> workspaces_;
};

/// Every call compiles the parameters, because a gradient step changes them.
template <class Family>
class GmaBackward : public Program {
 public:
  explicit GmaBackward(const Problem& p) : problem_(p), heads_(shared_heads(p)), tokens_(make_tokens<float>(p)) {
    for (Index h = 0; h < p.heads; ++h) mixtures_.push_back(make_mixture<Family>(p, h));
    gradients_.queries.setZero(p.tokens, p.width);
    gradients_.keys.setZero(p.tokens, p.width);
    gradients_.values.setZero(p.tokens, p.value_width);
  }

  void run() override {
    for (Index h = 0; h < problem_.heads; ++h) head(h);
  }

  double error() override {
    return largest_error(problem_.heads, [this](Index h) {
      head(h);
      const Inputs<double> in = heads_->in[static_cast<std::size_t>(h)].cast<double>();
      const gma::Mixture<double, Family> mixture = mixtures_[static_cast<std::size_t>(h)].template cast<double>();
      gma::Gradients<gma::Mixture<double, Family>> exact;
      gma::Workspace<double> workspace;
      gma_backward(mixture, in, make_tokens<double>(problem_), problem_.is_causal, exact, workspace);
      return std::max({relative_error(gradients_.queries, exact.queries), relative_error(gradients_.keys, exact.keys),
                       relative_error(gradients_.values, exact.values),
                       relative_error(gradients_.mixture.means, exact.mixture.means)});
    });
  }

  std::size_t workspace_bytes() const override { return workspace_.bytes(); }

 private:
  void head(Index h) {
    gma_backward(mixtures_[static_cast<std::size_t>(h)], heads_->in[static_cast<std::size_t>(h)], tokens_,
                 problem_.is_causal, gradients_, workspace_);
  }

  Problem problem_;
  std::shared_ptr<Heads<float>> heads_;
  std::vector<gma::Mixture<float, Family>> mixtures_;
  gma::TokenInputs<float> tokens_;
  gma::Workspace<float> workspace_;
  gma::Gradients<gma::Mixture<float, Family>> gradients_;  // of one head after the other
};

/// The `problem.tokens` tokens are written repeatedly until the memory has seen `context` tokens.
template <class Family>
class GmaDecoding : public Program {
 public:
  GmaDecoding(const Problem& p, Index context) : heads_(shared_heads(p)) {
    for (Index h = 0; h < p.heads; ++h) {
      const Inputs<float>& in = heads_->in[static_cast<std::size_t>(h)];
      mixtures_.push_back(gma::compile(make_mixture<Family>(p, h)));
      memories_.emplace_back();
      out_.push_back(Matrix<float>::Zero(1, p.value_width));
      for (Index t = 0; t < context; t += p.tokens) {
        gma::write(mixtures_.back(), in.keys, in.values, memories_.back(), gma::TokenInputs<float>{}, workspace_);
      }
    }
  }

  void run() override {
    for (std::size_t h = 0; h < memories_.size(); ++h) {
      const Inputs<float>& in = heads_->in[h];
      gma::causal_into(out_[h], mixtures_[h], in.queries.row(0), in.keys.row(0), in.values.row(0), memories_[h],
                       gma::Options{}, tokens_, workspace_);
    }
  }
  double error() override { return 0; }
  std::size_t workspace_bytes() const override { return workspace_.bytes(); }

 private:
  std::shared_ptr<Heads<float>> heads_;
  std::vector<gma::CompiledMixture<float>> mixtures_;
  std::vector<gma::Memory<float>> memories_;
  std::vector<Matrix<float>> out_;
  gma::TokenInputs<float> tokens_;
  gma::Workspace<float> workspace_;
};

template <class Family>
std::unique_ptr<Program> make_of_family(const Problem& p) {
  if (p.pass == Pass::backward) return std::make_unique<GmaBackward<Family>>(p);
  if (p.storage == Storage::bfloat16) return std::make_unique<GmaForward<Family, Eigen::bfloat16>>(p);
  return std::make_unique<GmaForward<Family, float>>(p);
}

}  // namespace

std::unique_ptr<Program> make_gma_program(const Problem& problem) {
  return problem.covariance == Covariance::tied ? make_of_family<gma::Tied>(problem)
                                                : make_of_family<gma::Diagonal>(problem);
}

std::unique_ptr<Program> make_gma_decoding_program(const Problem& problem, Index context) {
  Problem chunk = problem;
  chunk.pass = Pass::forward;
  chunk.tokens = std::min<Index>(context, 1024);
  if (problem.covariance == Covariance::tied) return std::make_unique<GmaDecoding<gma::Tied>>(chunk, context);
  return std::make_unique<GmaDecoding<gma::Diagonal>>(chunk, context);
}

}  // namespace bench
