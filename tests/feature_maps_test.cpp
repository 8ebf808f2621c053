// SPDX-License-Identifier: MIT
// Linear attention, Performer's features and the state space: against one token at a time in double, gradients against
// central differences, streams, and the properties that the features are used for.
#include "gma/baselines/feature_maps.hpp"

#include "gma/heads/heads_backward.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using gma::baselines::EluFeatures;
using gma::baselines::IdentityFeatures;
using gma::baselines::PositiveRandomFeatures;
constexpr Index dim = 5, value_width = 3;

Matrix<double> features(const EluFeatures<double>&, const Matrix<double>& x) {
  return x.unaryExpr([](double z) { return z > 0 ? z + 1 : std::exp(z); });
}
Matrix<double> features(const IdentityFeatures<double>&, const Matrix<double>& x) { return x; }
Matrix<double> features(const PositiveRandomFeatures<double>& map, const Matrix<double>& x) {
  Matrix<double> phi(x.rows(), map.components());
  for (Index t = 0; t < x.rows(); ++t) {
    const Vector<double> z = x.row(t).transpose() / std::pow(double(dim), 0.25);
    for (Index k = 0; k < map.components(); ++k) {
      phi(t, k) = std::exp(map.directions().row(k).dot(z) - z.squaredNorm() / 2) / std::sqrt(double(map.components()));
    }
  }
  return phi;
}

/// (8) and its reads, or everything written before anything is read.
template <class Map>
Matrix<double> reference(const Map& map, const Matrix<double>& queries, const Matrix<double>& keys,
                         const Matrix<double>& values, Normalization normalization, const TokenInputs<double>& tokens,
                         bool is_causal) {
  const Matrix<double> q = features(map, queries), k = features(map, keys);
  Matrix<double> slots = Matrix<double>::Zero(k.cols(), values.cols()), y(queries.rows(), values.cols());
  Vector<double> mass = Vector<double>::Zero(k.cols());
  const auto write = [&](Index j) {
    const double w = tokens.key_weights.size() == 0 ? 1 : tokens.key_weights(j);
    if (w == 0) return;
    const double lambda = tokens.log_forgetting.size() == 0 ? 1 : std::exp(tokens.log_forgetting(j));
    slots = (lambda * slots + w * k.row(j).transpose() * values.row(j)).eval();
    mass = (lambda * mass + w * k.row(j).transpose()).eval();
  };
  const auto read = [&](Index i) {
    const double tiny = gma::tiny_mass;
    if (normalization == Normalization::none) y.row(i) = q.row(i) * slots;
    if (normalization == Normalization::row) y.row(i) = q.row(i) * slots / std::max(q.row(i).dot(mass), tiny);
    if (normalization == Normalization::slot) {
      y.row(i) = q.row(i).cwiseQuotient(mass.cwiseMax(tiny).transpose()) * slots;
    }
  };
  for (Index j = 0; j < keys.rows(); ++j) {
    write(j);
    if (is_causal) read(j);
  }
  for (Index i = 0; i < queries.rows() && !is_causal; ++i) read(i);
  return y;
}

template <class S>
struct Inputs {
  Matrix<S> queries, keys, values, d_output;
  TokenInputs<S> tokens;
  Inputs(Index count, bool with_tokens) {
    Random random(3);
    queries = random.matrix<S>(count, dim);
    keys = random.matrix<S>(count, dim);
    values = random.matrix<S>(count, value_width);
    d_output = random.matrix<S>(count, value_width);
    if (with_tokens) tokens = random_tokens<S>(count, false, random);
    for (Index j = 0; j < tokens.log_forgetting.size(); ++j) {
      if (!(tokens.key_weights(j) > 0)) tokens.log_forgetting(j) = 0;
    }
  }
};

/// f(map, normalisation) for each with the normalisations that it is used with.
template <class S, class F>
void for_each_map(F&& f) {
  for (const Normalization normalization : all_normalizations) {
    SCOPED_TRACE(name_of(normalization));
    f(EluFeatures<S>(dim), normalization);
    f(PositiveRandomFeatures<S>(16, dim, 1), normalization);
  }
  f(IdentityFeatures<S>(dim), Normalization::none);
}

Options options_of(Normalization normalization) {
  Options options;
  options.normalization = normalization;
  return options;
}

TEST(FeatureMaps, EqualTheirDefinitionsTokenByToken) {
  for_each_map<double>([](const auto& map, Normalization normalization) {
    for (const Index count : {0, 1, 2, 97, 300}) {
      for (const bool with_tokens : {false, true}) {
        const Inputs<double> in(count, with_tokens);
        const Options options = options_of(normalization);
        EXPECT_TRUE(close(gma::causal(map, in.queries, in.keys, in.values, options, in.tokens),
                          reference(map, in.queries, in.keys, in.values, normalization, in.tokens, true),
                          forward_tolerance<double>()));
        EXPECT_TRUE(close(gma::bidirectional(map, in.queries, in.keys, in.values, options, in.tokens),
                          reference(map, in.queries, in.keys, in.values, normalization, in.tokens, false),
                          forward_tolerance<double>()));
      }
    }
  });
}

TEST(FeatureMaps, FloatIsCloseToDouble) {
  for_each_map<float>([](const auto& map, Normalization normalization) {
    using Map = std::decay_t<decltype(map)>;
    const Inputs<float> in(400, true);
    const Matrix<double> q = in_double(in.queries), k = in_double(in.keys), v = in_double(in.values);
    Matrix<double> expected;
    if constexpr (std::is_same_v<Map, EluFeatures<float>>) {
      expected = reference(EluFeatures<double>(dim), q, k, v, normalization, in_double(in.tokens), true);
    } else if constexpr (std::is_same_v<Map, IdentityFeatures<float>>) {
      expected = reference(IdentityFeatures<double>(dim), q, k, v, normalization, in_double(in.tokens), true);
    } else {
      const PositiveRandomFeatures<double> exact(Matrix<double>(map.directions().template cast<double>()));
      expected = reference(exact, q, k, v, normalization, in_double(in.tokens), true);
    }
    EXPECT_TRUE(close(gma::causal(map, in.queries, in.keys, in.values, options_of(normalization), in.tokens), expected,
                      forward_tolerance<float>()));
  });
}

/// Gradients of sum(y o d_output) against central differences.
template <class Map>
void expect_gradients(const Map& map, Normalization normalization, bool is_causal) {
  Inputs<double> in(23, true);
  const Options options = options_of(normalization);
  const auto loss = [&] {
    const Matrix<double> y = is_causal ? gma::causal(map, in.queries, in.keys, in.values, options, in.tokens)
                                       : gma::bidirectional(map, in.queries, in.keys, in.values, options, in.tokens);
    return y.cwiseProduct(in.d_output).sum();
  };
  const auto gradients =
      is_causal ? gma::causal_backward(map, in.queries, in.keys, in.values, in.d_output, options, in.tokens)
                : gma::bidirectional_backward(map, in.queries, in.keys, in.values, in.d_output, options, in.tokens);
  const auto expect = [&](const char* name, auto& values, const auto& gradient) {
    Matrix<double> differences = Matrix<double>::Zero(values.rows(), values.cols());
    for (Index i = 0; i < values.size(); ++i) {
      double& value = values.data()[i];
      if (&values.coeffRef(0) == in.tokens.key_weights.data() ||
          &values.coeffRef(0) == in.tokens.log_forgetting.data()) {
        if (!(in.tokens.key_weights(i) > 0)) continue;
      }
      differences.data()[i] = difference_quotient(value, 1e-5, loss);  // elu has a kink in its slope
    }
    EXPECT_TRUE(close(gradient, differences, difference_tolerance)) << name;
  };
  expect("queries", in.queries, gradients.queries);
  expect("keys", in.keys, gradients.keys);
  expect("values", in.values, gradients.values);
  expect("key_weights", in.tokens.key_weights, gradients.key_weights);
  expect("log_forgetting", in.tokens.log_forgetting, gradients.log_forgetting);
}

TEST(FeatureMaps, GradientsAgainstDifferences) {
  for_each_map<double>([](const auto& map, Normalization normalization) {
    expect_gradients(map, normalization, true);
    expect_gradients(map, normalization, false);
  });
}

TEST(FeatureMaps, StreamAndGoOverHeads) {
  for_each_map<double>([](const auto& map, Normalization normalization) {
    const Inputs<double> in(40, true);
    const Options options = options_of(normalization);
    const Matrix<double> whole = gma::causal(map, in.queries, in.keys, in.values, options, in.tokens);
    Memory<double> memory;
    Matrix<double> steps(whole.rows(), whole.cols());
    for (Index t = 0; t < 40; ++t) {
      steps.row(t) = gma::causal(map, in.queries.row(t), in.keys.row(t), in.values.row(t), memory, options,
                                 part_of(in.tokens, t, 1));
    }
    EXPECT_TRUE(close(steps, whole, forward_tolerance<double>()));

    const std::vector<std::decay_t<decltype(map)>> heads(2, map);
    Matrix<double> q(40, 2 * dim), k(40, 2 * dim), v(40, 2 * value_width);
    q << in.queries, in.keys;
    k << in.keys, in.queries;
    v << in.values, in.d_output;
    gma::HeadInputs<double> inputs;
    inputs.key_weights = in.tokens.key_weights;
    inputs.log_forgetting.resize(40, 2);
    inputs.log_forgetting << in.tokens.log_forgetting, in.tokens.log_forgetting;
    EXPECT_TRUE(same_bits(gma::causal(heads, q, k, v, options, inputs).leftCols(value_width), whole));
    const auto gradients = gma::causal_backward(heads, q, k, v, v, options, inputs);
    const auto one = gma::causal_backward(map, in.queries, in.keys, in.values, in.values, options, in.tokens);
    EXPECT_TRUE(same_bits(gradients.keys.leftCols(dim), one.keys));
  });
}

TEST(FeatureMaps, RandomFeaturesEstimateTheSoftmaxKernel) {
  // Averaged over many features, phi(q) . phi(k) is exp(q . k / sqrt(d)); directions are orthogonal within a block.
  const PositiveRandomFeatures<double> map(20000, dim, 2);
  Random random(4);
  const Matrix<double> q = random.matrix<double>(6, dim, 0.7), k = random.matrix<double>(6, dim, 0.7);
  const Matrix<double> exact = ((q * k.transpose()) / std::sqrt(double(dim))).array().exp();
  EXPECT_TRUE(close(features(map, q) * features(map, k).transpose(), exact, 0.05));
  EXPECT_NEAR(map.directions().row(0).dot(map.directions().row(4)), 0, 1e-12);
  EXPECT_NEAR(map.directions().rowwise().squaredNorm().mean(), double(dim), 0.1);
}

TEST(FeatureMaps, ErrorsNameWhatIsWrong) {
  expect_error([] { EluFeatures<float>(0); }, {"EluFeatures", "dim is 0"});
  expect_error([] { PositiveRandomFeatures<float>(0, 4, 1); }, {"PositiveRandomFeatures", "components is 0"});
  const Inputs<double> in(4, false);
  expect_error([&] { gma::causal(EluFeatures<double>(), in.queries, in.keys, in.values); },
               {"gma::causal: ", "feature map is empty"});
  expect_error([&] { gma::causal(EluFeatures<double>(4), in.queries, in.keys, in.values); },
               {"queries has 5 columns, expected 4"});
}

}  // namespace
}  // namespace gma_test
