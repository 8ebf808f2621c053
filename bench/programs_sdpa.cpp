// SPDX-License-Identifier: MIT
// Softmax attention as programs to be compared with.
#include "gma/baselines/sdpa.hpp"
#include "programs_common.hpp"

namespace bench {
namespace {

gma::baselines::SdpaOptions sdpa_options(bool is_causal) {
  gma::baselines::SdpaOptions options;
  options.is_causal = is_causal;
  return options;
}

/// Largest error over 16 rows spread over the sequence, the last included, each computed densely from what it may see.
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
  explicit TiledSdpa(const Problem& p) : problem_(p), in_(make_inputs(p)), options_(sdpa_options(p.is_causal)) {
    if (p.pass == Pass::forward) {
      out_.setZero(p.tokens, p.value_width);
    } else {
      forward_ = gma::baselines::sdpa_forward(in_.queries, in_.keys, in_.values, options_);
      gradients_.queries.setZero(p.tokens, p.width);
      gradients_.keys.setZero(p.tokens, p.width);
      gradients_.values.setZero(p.tokens, p.value_width);
    }
  }

  void run() override {
    if (problem_.pass == Pass::forward) {
      gma::baselines::sdpa_into(out_, in_.queries, in_.keys, in_.values, options_, workspace_);
    } else {
      gma::baselines::sdpa_backward_into(gradients_, in_.queries, in_.keys, in_.values, in_.d_output, forward_,
                                         options_, workspace_);
    }
  }

  double error() override {
    run();
    return sdpa_error(problem_, in_, out_, gradients_);
  }

 private:
  Problem problem_;
  Inputs<float> in_;
  gma::baselines::SdpaOptions options_;
  gma::baselines::SdpaForward<float> forward_;
  gma::Workspace<float> workspace_;
  Matrix<float> out_;
  gma::baselines::SdpaGradients<float> gradients_;
};

class DenseSdpa : public Program {
 public:
  explicit DenseSdpa(const Problem& p) : problem_(p), in_(make_inputs(p)), options_(sdpa_options(p.is_causal)) {}

  void run() override {
    if (problem_.pass == Pass::forward) {
      out_ = gma::baselines::sdpa_dense(in_.queries, in_.keys, in_.values, options_);
    } else {
      gradients_ = gma::baselines::sdpa_dense_backward(in_.queries, in_.keys, in_.values, in_.d_output, options_);
    }
  }

  double error() override {
    run();
    return sdpa_error(problem_, in_, out_, gradients_);
  }

  std::size_t returned_bytes() const override {
    const Index columns =
        problem_.pass == Pass::forward ? problem_.value_width : 2 * problem_.width + problem_.value_width;
    return static_cast<std::size_t>(problem_.tokens * columns) * sizeof(float);
  }

 private:
  Problem problem_;
  Inputs<float> in_;
  gma::baselines::SdpaOptions options_;
  Matrix<float> out_;
  gma::baselines::SdpaGradients<float> gradients_;
};

class SdpaDecoding : public Program {
 public:
  SdpaDecoding(const Problem& p, Index context)
      : query_(normal_matrix(1, p.width, 1)), cache_(p.width, p.value_width, context) {
    cache_.append(normal_matrix(context, p.width, 2), normal_matrix(context, p.value_width, 3));
  }

  void run() override { out_ = gma::baselines::sdpa_decode(query_, cache_); }
  double error() override { return 0; }

 private:
  Matrix<float> query_;
  gma::baselines::KeyValueCache<float> cache_;
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
