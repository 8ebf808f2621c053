// SPDX-License-Identifier: MIT
// Softmax attention as programs for the comparison.
#include "gma/softmax/sdpa.hpp"
#include "programs_common.hpp"

namespace bench {
namespace {

gma::baselines::SdpaOptions sdpa_options(bool is_causal) {
  gma::baselines::SdpaOptions options;
  options.is_causal = is_causal;
  return options;
}

/// Largest error over 16 rows spread over the sequence, the last included. Each row is computed densely from the keys
/// that it sees.
double sampled_error(const Problem& p, const Inputs<float>& in, const Matrix<float>& computed) {
  const Index samples = 16;
  const Inputs<double> exact_in = in.cast<double>();
  Matrix<double> exact(samples, computed.cols());
  Matrix<float> rows(samples, computed.cols());
  for (Index s = 0; s < samples; ++s) {
    const Index i = (s + 1) * p.tokens / samples - 1, seen = p.is_causal ? i + 1 : p.tokens;
    const Matrix<double> query = exact_in.queries.row(i), d_output = exact_in.d_output.row(i);
    const Matrix<double> keys = exact_in.keys.topRows(seen), values = exact_in.values.topRows(seen);
    rows.row(s) = computed.row(i);
    exact.row(s) = p.pass == Pass::forward ? gma::baselines::sdpa_dense(query, keys, values)
                                           : gma::baselines::sdpa_dense_backward(query, keys, values, d_output).queries;
  }
  return relative_error(rows, exact);
}

double sdpa_error(const Problem& p, const Inputs<float>& in, const Matrix<float>& out,
                  const gma::baselines::SdpaGradients<float>& gradients) {
  if (p.tokens > checked_densely) return sampled_error(p, in, p.pass == Pass::forward ? out : gradients.queries);
  const Inputs<double> exact_in = in.cast<double>();
  if (p.pass == Pass::forward) {
    return relative_error(
        out, gma::baselines::sdpa_dense(exact_in.queries, exact_in.keys, exact_in.values, sdpa_options(p.is_causal)));
  }
  const gma::baselines::SdpaGradients<double> exact = gma::baselines::sdpa_dense_backward(
      exact_in.queries, exact_in.keys, exact_in.values, exact_in.d_output, sdpa_options(p.is_causal));
  return std::max({relative_error(gradients.queries, exact.queries), relative_error(gradients.keys, exact.keys),
                   relative_error(gradients.values, exact.values)});
}

class TiledSdpa : public Program {
 public:
  explicit TiledSdpa(const Problem& p) : problem_(p), heads_(shared_heads(p)), options_(sdpa_options(p.is_causal)) {
    if (p.pass == Pass::forward) return;
    for (Index h = 0; h < p.heads; ++h) {
      const Inputs<float>& in = heads_->in[static_cast<std::size_t>(h)];
      forward_.push_back(gma::baselines::sdpa_forward(in.queries, in.keys, in.values, options_));
    }
    gradients_.queries.setZero(p.tokens, p.width);
    gradients_.keys.setZero(p.tokens, p.width);
    gradients_.values.setZero(p.tokens, p.value_width);
  }

  void run() override {
    for (Index h = 0; h < problem_.heads; ++h) head(static_cast<std::size_t>(h));
  }

  double error() override {
    return largest_error(problem_.heads, [this](Index head_index) {
      const auto h = static_cast<std::size_t>(head_index);
      head(h);
      return sdpa_error(problem_, heads_->in[h], heads_->out[h], gradients_);
    });
  }

  std::size_t workspace_bytes() const override { return workspace_.bytes(); }

 private:
  void head(std::size_t h) {
    const Inputs<float>& in = heads_->in[h];
    if (problem_.pass == Pass::forward) {
      gma::baselines::sdpa_into(heads_->out[h], in.queries, in.keys, in.values, options_, workspace_);
    } else {
      gma::baselines::sdpa_backward_into(gradients_, in.queries, in.keys, in.values, in.d_output, forward_[h], options_,
                                         workspace_);
    }
  }

  Problem problem_;
  std::shared_ptr<Heads<float>> heads_;
  gma::baselines::SdpaOptions options_;
  std::vector<gma::baselines::SdpaForward<float>> forward_;
  gma::Workspace<float> workspace_;
  gma::baselines::SdpaGradients<float> gradients_;  // of one head after the other
};

class DenseSdpa : public Program {
 public:
  explicit DenseSdpa(const Problem& p) : problem_(p), heads_(shared_heads(p)), options_(sdpa_options(p.is_causal)) {}

  void run() override {
    for (Index h = 0; h < problem_.heads; ++h) head(static_cast<std::size_t>(h));
  }

  double error() override {
    return largest_error(problem_.heads, [this](Index h) {
      head(static_cast<std::size_t>(h));
      return sdpa_error(problem_, heads_->in[static_cast<std::size_t>(h)], out_, gradients_);
    });
  }

  std::size_t returned_bytes() const override {
    const Index columns =
        problem_.pass == Pass::forward ? problem_.value_width : 2 * problem_.width + problem_.value_width;
    return static_cast<std::size_t>(problem_.tokens * columns) * sizeof(float);
  }

 private:
  void head(std::size_t h) {
    const Inputs<float>& in = heads_->in[h];
    if (problem_.pass == Pass::forward) {
      out_ = gma::baselines::sdpa_dense(in.queries, in.keys, in.values, options_);
    } else {
      gradients_ = gma::baselines::sdpa_dense_backward(in.queries, in.keys, in.values, in.d_output, options_);
    }
  }

  Problem problem_;
  std::shared_ptr<Heads<float>> heads_;
  gma::baselines::SdpaOptions options_;
  Matrix<float> out_;
  gma::baselines::SdpaGradients<float> gradients_;
};

class SdpaDecoding : public Program {
 public:
  SdpaDecoding(const Problem& p, Index context) {
    for (Index h = 0; h < p.heads; ++h) {
      queries_.push_back(normal_matrix(1, p.width, seed(h, 1)));
      caches_.emplace_back(p.width, p.value_width, context);
      caches_.back().append(normal_matrix(context, p.width, seed(h, 2)),
                            normal_matrix(context, p.value_width, seed(h, 3)));
    }
  }

  void run() override {
    for (std::size_t h = 0; h < caches_.size(); ++h) out_ = gma::baselines::sdpa_decode(queries_[h], caches_[h]);
  }
  double error() override { return 0; }

 private:
  std::vector<Matrix<float>> queries_;
  std::vector<gma::baselines::KeyValueCache<float>> caches_;
  gma::RowVector<float> out_;
};

}  // namespace

std::unique_ptr<Program> make_sdpa_program(const Problem& problem) {
  if (problem.attention == Operator::sdpa_dense) return std::make_unique<DenseSdpa>(problem);
  return std::make_unique<TiledSdpa>(problem);
}

std::unique_ptr<Program> make_sdpa_decoding_program(const Problem& problem, Index context) {
  return std::make_unique<SdpaDecoding>(problem, context);
}

}  // namespace bench
