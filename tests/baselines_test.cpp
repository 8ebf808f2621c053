// SPDX-License-Identifier: MIT
// Softmax attention, the opponent in the comparisons: tiled against dense, gradients against central differences,
// decoding against the causal form, and what bad arguments are told.
#include <gma/softmax/sdpa.hpp>

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using gma::Index;
using gma::Matrix;
using gma::Vector;
using namespace gma::baselines;

template <class S>
Matrix<S> random_matrix(Index rows, Index cols, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  return Matrix<S>::NullaryExpr(rows, cols, [&] { return static_cast<S>(normal(generator)); });
}

template <class A, class B>
double relative_error(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  const double size = b.template cast<double>().norm();
  return (a.template cast<double>() - b.template cast<double>()).norm() / (size > 0 ? size : 1);
}

template <class S>
struct Tolerance;
template <>
struct Tolerance<double> {
  static constexpr double forward = 1e-12, gradient = 1e-10;
};
template <>
struct Tolerance<float> {
  static constexpr double forward = 64 * static_cast<double>(std::numeric_limits<float>::epsilon());
  static constexpr double gradient = 4 * forward;
};

/// One problem in S, and the same in double.
template <class S>
struct Case {
  Case(Index query_count, Index key_count, Index d, Index e)
      : queries(random_matrix<S>(query_count, d, 1)),
        keys(random_matrix<S>(key_count, d, 2)),
        values(random_matrix<S>(key_count, e, 3)),
        d_output(random_matrix<S>(query_count, e, 4)) {}

  template <class T>
  Case<T> cast() const {
    Case<T> result(0, 0, 1, 1);
    result.queries = queries.template cast<T>();
    result.keys = keys.template cast<T>();
    result.values = values.template cast<T>();
    result.d_output = d_output.template cast<T>();
    return result;
  }

  Matrix<S> queries, keys, values, d_output;
};

template <class S>
void expect_tiled_equals_dense(const Case<S>& it, const SdpaOptions& options) {
  const Case<double> exact = it.template cast<double>();
  const SdpaForward<S> forward = sdpa_forward(it.queries, it.keys, it.values, options);
  EXPECT_EQ(forward.output, sdpa(it.queries, it.keys, it.values, options));
  EXPECT_LE(relative_error(forward.output, sdpa_dense(exact.queries, exact.keys, exact.values, options)),
            Tolerance<S>::forward);

  const SdpaGradients<S> tiled = sdpa_backward(it.queries, it.keys, it.values, it.d_output, forward, options);
  const SdpaGradients<double> dense =
      sdpa_dense_backward(exact.queries, exact.keys, exact.values, exact.d_output, options);
  EXPECT_LE(relative_error(tiled.queries, dense.queries), Tolerance<S>::gradient);
  EXPECT_LE(relative_error(tiled.keys, dense.keys), Tolerance<S>::gradient);
  EXPECT_LE(relative_error(tiled.values, dense.values), Tolerance<S>::gradient);
}

template <class S>
class Sdpa : public testing::Test {};
using Scalars = testing::Types<float, double>;
struct ScalarName {
  template <class S>
  static std::string GetName(int) {
    return std::is_same_v<S, float> ? "float" : "double";
  }
};
TYPED_TEST_SUITE(Sdpa, Scalars, ScalarName);

TYPED_TEST(Sdpa, TiledEqualsDense) {
  for (const Index n : {0, 1, 7, 63, 64, 65, 130}) {
    for (const bool is_causal : {false, true}) {
      for (const std::vector<Index>& tiles : {std::vector<Index>{96, 384}, {16, 32}, {32, 16}, {7, 5}, {1, 1}}) {
        SCOPED_TRACE(testing::Message() << n << " tokens, causal " << is_causal << ", tiles " << tiles[0] << " x "
                                        << tiles[1]);
        SdpaOptions options;
        options.is_causal = is_causal;
        options.query_tile = tiles[0];
        options.key_tile = tiles[1];
        expect_tiled_equals_dense(Case<TypeParam>(n, n, 16, 16), options);
      }
    }
  }
}

TYPED_TEST(Sdpa, WindowedTiledEqualsDense) {
  for (const Index n : {0, 1, 7, 64, 130}) {
    for (const Index window : {1, 2, 16, 33, 1000}) {
      for (const std::vector<Index>& tiles :
           {std::vector<Index>{96, 96}, {96, 384}, {16, 32}, {32, 16}, {7, 5}, {1, 1}}) {
        SCOPED_TRACE(testing::Message() << n << " tokens, window " << window << ", tiles " << tiles[0] << " x "
                                        << tiles[1]);
        SdpaOptions options;
        options.is_causal = true;
        options.window = window;
        options.query_tile = tiles[0];
        options.key_tile = tiles[1];
        expect_tiled_equals_dense(Case<TypeParam>(n, n, 16, 16), options);
      }
    }
  }
}

TYPED_TEST(Sdpa, QueriesOfTheLastTokensAreTheLastRowsOfTheWhole) {
  using S = TypeParam;
  const Case<S> whole(130, 130, 8, 5);
  gma::Workspace<S> workspace;
  SdpaForward<S> forward;
  for (const Index window : {0, 1, 20, 64, 1000}) {
    for (const Index past : {0, 1, 63, 96, 129, 130}) {
      for (const Index tile : {96, 16, 7}) {
        SCOPED_TRACE(testing::Message() << past << " tokens before, window " << window << ", tiles of " << tile);
        SdpaOptions options;
        options.is_causal = true;
        options.window = window;
        options.query_tile = options.key_tile = tile;
        Case<S> it = whole;
        it.queries = whole.queries.bottomRows(130 - past).eval();
        it.d_output = whole.d_output.bottomRows(130 - past).eval();
        expect_tiled_equals_dense(it, options);
        sdpa_forward_into(forward, it.queries, it.keys, it.values, options, workspace);
        EXPECT_LE(relative_error(forward.output,
                                 sdpa(whole.queries, whole.keys, whole.values, options).bottomRows(130 - past)),
                  Tolerance<S>::forward);
      }
    }
  }
}

TYPED_TEST(Sdpa, AWindowIsAttentionToTheLastTokens) {
  const Case<double> it(40, 40, 8, 5);
  SdpaOptions options;
  options.is_causal = true;
  options.window = 6;
  const Matrix<double> y = sdpa_dense(it.queries, it.keys, it.values, options);
  for (const Index i : {0, 3, 5, 6, 39}) {
    const Index begin = std::max(Index(0), i - 5), count = i + 1 - begin;
    const Matrix<double> alone =
        sdpa_dense(it.queries.row(i), it.keys.middleRows(begin, count), it.values.middleRows(begin, count));
    EXPECT_LE(relative_error(y.row(i), alone), 1e-14) << i;
  }
}

TYPED_TEST(Sdpa, AWindowOfAnyLengthIsAllKeys) {
  using S = TypeParam;
  const Case<S> it(130, 150, 4, 3);
  SdpaOptions all;
  all.is_causal = true;
  const Matrix<S> expected = sdpa(it.queries, it.keys, it.values, all);
  const SdpaGradients<S> gradients = sdpa_backward(it.queries, it.keys, it.values, it.d_output, all);
  constexpr Index most = std::numeric_limits<Index>::max();
  for (const Index window : {Index(150), Index(1000), most / 2 + 1, most - 1, most}) {
    SdpaOptions options = all;
    options.window = window;
    EXPECT_LE(relative_error(sdpa(it.queries, it.keys, it.values, options), expected), Tolerance<S>::forward);
    EXPECT_LE(relative_error(sdpa_dense(it.queries, it.keys, it.values, options), expected), Tolerance<S>::forward);
    const SdpaGradients<S> actual = sdpa_backward(it.queries, it.keys, it.values, it.d_output, options);
    EXPECT_LE(relative_error(actual.queries, gradients.queries), Tolerance<S>::gradient);
    EXPECT_LE(relative_error(actual.keys, gradients.keys), Tolerance<S>::gradient);
    EXPECT_LE(relative_error(actual.values, gradients.values), Tolerance<S>::gradient);
    options.query_tile = options.key_tile = most;
    EXPECT_LE(relative_error(sdpa(it.queries, it.keys, it.values, options), expected), Tolerance<S>::forward);
  }
}

/// The scores of the backward pass are rounded otherwise than those of the forward pass, here by more than the largest
/// exponent.
TYPED_TEST(Sdpa, GradientsOfHugeScoresStayFinite) {
  using S = TypeParam;
  for (const double size : {1e3, 1e6, 1e9}) {
    Case<S> it(200, 200, 15, 4);  // scales that are no power of two
    it.queries *= static_cast<S>(size);
    it.keys *= static_cast<S>(size);
    SdpaOptions options;
    options.is_causal = true;
    const SdpaGradients<S> gradients = sdpa_backward(it.queries, it.keys, it.values, it.d_output, options);
    EXPECT_TRUE(gradients.queries.allFinite()) << size;
    EXPECT_TRUE(gradients.keys.allFinite()) << size;
    EXPECT_TRUE(gradients.values.allFinite()) << size;
    EXPECT_LE(gradients.values.norm(), 200 * it.d_output.norm()) << size;  // weights are at most 1
  }
}

TYPED_TEST(Sdpa, LongerThanThreeDefaultTiles) {
  for (const bool is_causal : {false, true}) {
    SdpaOptions options;
    options.is_causal = is_causal;
    expect_tiled_equals_dense(Case<TypeParam>(1201, 1201, 8, 12), options);
  }
}

TYPED_TEST(Sdpa, CrossAttentionWithAnotherValueWidthAndScale) {
  for (const Index query_count : {1, 33, 130}) {
    for (const Index key_count : {1, 65, 200}) {
      SCOPED_TRACE(testing::Message() << query_count << " queries, " << key_count << " keys");
      SdpaOptions options;
      options.query_tile = 32;
      options.key_tile = 48;
      expect_tiled_equals_dense(Case<TypeParam>(query_count, key_count, 5, 9), options);
      options.scale = 0.7;
      expect_tiled_equals_dense(Case<TypeParam>(query_count, key_count, 5, 9), options);
    }
  }
}

TYPED_TEST(Sdpa, WithoutKeysTheOutputIsZero) {
  const Case<TypeParam> it(5, 0, 4, 3);
  const SdpaForward<TypeParam> forward = sdpa_forward(it.queries, it.keys, it.values);
  EXPECT_EQ(forward.output, (Matrix<TypeParam>::Zero(5, 3)));
  EXPECT_EQ(sdpa_dense(it.queries, it.keys, it.values), (Matrix<TypeParam>::Zero(5, 3)));
  EXPECT_EQ(forward.log_sum_exp(0), -std::numeric_limits<TypeParam>::infinity());
  const SdpaGradients<TypeParam> gradients = sdpa_backward(it.queries, it.keys, it.values, it.d_output, forward);
  EXPECT_EQ(gradients.queries, (Matrix<TypeParam>::Zero(5, 4)));
  EXPECT_EQ(gradients.keys.rows(), 0);
}

TYPED_TEST(Sdpa, LargeScoresStayFinite) {
  Case<TypeParam> it(70, 70, 8, 8);
  it.queries *= TypeParam(1e3);
  it.keys *= TypeParam(1e3);
  SdpaOptions options;
  options.query_tile = options.key_tile = 16;
  const SdpaForward<TypeParam> forward = sdpa_forward(it.queries, it.keys, it.values, options);
  EXPECT_LE(relative_error(forward.output, sdpa_dense(it.queries, it.keys, it.values, options)), 1e-6);
  const SdpaGradients<TypeParam> gradients =
      sdpa_backward(it.queries, it.keys, it.values, it.d_output, forward, options);
  EXPECT_TRUE(gradients.queries.allFinite() && gradients.keys.allFinite() && gradients.values.allFinite());
}

TYPED_TEST(Sdpa, AnyLayoutAndBlocksOfLargerMatrices) {
  using S = TypeParam;
  const Case<S> it(65, 65, 6, 4);
  SdpaOptions options;
  options.is_causal = true;
  options.query_tile = options.key_tile = 16;
  const Matrix<S> expected = sdpa(it.queries, it.keys, it.values, options);
  const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> column_major_queries = it.queries, column_major_keys = it.keys;
  Matrix<S> wide = Matrix<S>::Constant(65, 10, S(-1));
  gma::Workspace<S> workspace;
  sdpa_into(wide.middleCols(3, 4), column_major_queries, column_major_keys, it.values * S(1), options, workspace);
  EXPECT_LE(relative_error(wide.middleCols(3, 4), expected), Tolerance<S>::forward);
  EXPECT_EQ(wide.leftCols(3), (Matrix<S>::Constant(65, 3, S(-1))));
  EXPECT_EQ(wide.rightCols(3), (Matrix<S>::Constant(65, 3, S(-1))));
}

TYPED_TEST(Sdpa, CausalOutputsDoNotSeeTheFuture) {
  Case<TypeParam> it(70, 70, 8, 8);
  SdpaOptions options;
  options.is_causal = true;
  options.query_tile = 16;
  options.key_tile = 24;
  const Matrix<TypeParam> before = sdpa(it.queries, it.keys, it.values, options);
  it.keys.bottomRows(30) *= TypeParam(-3);
  it.values.bottomRows(30) *= TypeParam(5);
  EXPECT_EQ(before.topRows(40), sdpa(it.queries, it.keys, it.values, options).topRows(40));
}

TYPED_TEST(Sdpa, DecodingEqualsTheRowsOfTheCausalForm) {
  using S = TypeParam;
  const Case<S> it(130, 130, 8, 5);
  SdpaOptions options;
  options.is_causal = true;
  const Matrix<S> causal = sdpa(it.queries, it.keys, it.values, options);
  KeyValueCache<S> cache;
  cache.append(it.keys.topRows(60), it.values.topRows(60));
  for (Index t = 60; t < 130; ++t) {
    cache.append(it.keys.row(t), it.values.row(t));
    EXPECT_LE(relative_error(sdpa_decode(it.queries.row(t), cache, options), causal.row(t)), Tolerance<S>::forward);
  }
  EXPECT_EQ(cache.size(), 130);
  EXPECT_EQ(cache.keys(), it.keys);
  EXPECT_EQ(cache.values(), it.values);
  cache.clear();
  EXPECT_EQ(sdpa_decode(it.queries.row(0), cache), (Matrix<S>::Zero(1, 5)));
}

TYPED_TEST(Sdpa, AWindowNeedsItsLastTokensOnly) {
  using S = TypeParam;
  const Case<S> it(60, 60, 8, 5);
  SdpaOptions options;
  options.is_causal = true;
  options.window = 7;
  const Matrix<S> causal = sdpa(it.queries, it.keys, it.values, options);
  KeyValueCache<S> cache;
  for (Index t = 0; t < 60; ++t) {
    cache.append(it.keys.row(t), it.values.row(t));
    EXPECT_LE(relative_error(sdpa_decode(it.queries.row(t), cache, options), causal.row(t)), Tolerance<S>::forward);
    if (t % 3 == 0) cache.keep_last(7);
  }
  EXPECT_EQ(cache.size(), 9);
  EXPECT_EQ(cache.keys(), it.keys.bottomRows(9));
  cache.keep_last(100);
  EXPECT_EQ(cache.size(), 9);
}

// Gradients in double ------------------------------------------------------------------------------------------------

/// d loss / d matrix by central differences, loss = <sdpa(...), d_output>.
Matrix<double> central_differences(Case<double>& it, Matrix<double>& matrix, const SdpaOptions& options) {
  const double step = 1e-5;
  const auto loss = [&] { return sdpa(it.queries, it.keys, it.values, options).cwiseProduct(it.d_output).sum(); };
  Matrix<double> gradient(matrix.rows(), matrix.cols());
  for (Index i = 0; i < matrix.size(); ++i) {
    const double value = matrix.data()[i];
    matrix.data()[i] = value + step;
    const double above = loss();
    matrix.data()[i] = value - step;
    gradient.data()[i] = (above - loss()) / (2 * step);
    matrix.data()[i] = value;
  }
  return gradient;
}

TEST(SdpaGradients, EqualCentralDifferences) {
  for (const bool is_causal : {false, true}) {
    SCOPED_TRACE(testing::Message() << "causal " << is_causal);
    Case<double> it(13, 19, 4, 3);
    SdpaOptions options;
    options.is_causal = is_causal;
    options.scale = 0.8;
    options.query_tile = 4;
    options.key_tile = 6;
    const gma::baselines::SdpaGradients<double> gradients =
        sdpa_backward(it.queries, it.keys, it.values, it.d_output, options);
    EXPECT_LE(relative_error(gradients.queries, central_differences(it, it.queries, options)), 1e-7);
    EXPECT_LE(relative_error(gradients.keys, central_differences(it, it.keys, options)), 1e-7);
    EXPECT_LE(relative_error(gradients.values, central_differences(it, it.values, options)), 1e-7);
  }
}

// Errors -------------------------------------------------------------------------------------------------------------

template <class Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(SdpaErrors, NameTheFunctionTheArgumentAndBothSizes) {
  const Case<double> it(6, 8, 4, 3);
  const Matrix<double> few_keys = it.keys.topRows(5);
  const Matrix<double> narrow_queries = it.queries.leftCols(2), no_queries = it.queries.leftCols(0);
  const Matrix<double> few_values = it.values.topRows(7), few_d_output = it.d_output.topRows(5);
  SdpaOptions causal;
  causal.is_causal = true;
  EXPECT_EQ(message_of([&] { sdpa(it.queries, few_keys, it.values.topRows(5), causal); }),
            "gma::baselines::sdpa: keys has 5 rows, expected at least 6 (one per query, because is_causal is set)");
  EXPECT_EQ(message_of([&] { sdpa(narrow_queries, it.keys, it.values); }),
            "gma::baselines::sdpa: keys has 4 columns, expected 2 (as many as queries)");
  EXPECT_EQ(message_of([&] { sdpa_dense(it.queries, it.keys, few_values); }),
            "gma::baselines::sdpa_dense: values has 7 rows, expected 8 (one per key)");
  EXPECT_EQ(message_of([&] { sdpa(no_queries, it.keys, it.values); }),
            "gma::baselines::sdpa: queries has 0 columns, expected at least 1");
  EXPECT_EQ(message_of([&] { sdpa_backward(it.queries, it.keys, it.values, few_d_output); }),
            "gma::baselines::sdpa_backward: d_output is 5 x 3, expected 6 x 3 (queries x value width)");
  EXPECT_EQ(message_of([&] { sdpa_backward(it.queries, it.keys, it.values, it.d_output, SdpaForward<double>{}); }),
            "gma::baselines::sdpa_backward: forward.output is 0 x 0, expected 6 x 3 (queries x value width)");
}

TEST(SdpaErrors, NameNegativeSizesOfTheCache) {
  try {
    KeyValueCache<float>(2, 3, -1);
    FAIL();
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "gma::baselines::KeyValueCache: d, e and tokens are 2, 3 and -1, expected 0 or more");
  }
}

TEST(SdpaErrors, NameTheOption) {
  const Case<double> it(6, 8, 4, 3);
  SdpaOptions tiles, scale, window;
  window.window = 3;
  EXPECT_EQ(
      message_of([&] { sdpa(it.queries, it.keys, it.values, window); }),
      "gma::baselines::sdpa: options.window is 3 with is_causal 0, expected 0, or a positive number with is_causal");
  tiles.key_tile = 0;
  scale.scale = std::numeric_limits<double>::infinity();
  EXPECT_EQ(message_of([&] { sdpa(it.queries, it.keys, it.values, tiles); }),
            "gma::baselines::sdpa: options.query_tile is 96 and options.key_tile is 0, expected at least 1");
  EXPECT_EQ(message_of([&] { sdpa(it.queries, it.keys, it.values, scale); }),
            "gma::baselines::sdpa: options.scale is inf, expected a finite number");
}

TEST(KeyValueCache, TakesItsOwnKeysAndValues) {
  const Case<float> it(0, 7, 3, 3);
  KeyValueCache<float> cache;
  cache.append(it.keys, it.values);
  for (Index count = 7; count < 500; count *= 2) {
    const Matrix<float> keys = cache.keys(), values = cache.values();
    cache.append(cache.values(), cache.keys());  // swapped, while it grows
    ASSERT_EQ(cache.size(), 2 * count);
    EXPECT_EQ(cache.keys().topRows(count), keys);
    EXPECT_EQ(cache.keys().bottomRows(count), values);
    EXPECT_EQ(cache.values().topRows(count), values);
    EXPECT_EQ(cache.values().bottomRows(count), keys);
  }
}

TEST(SdpaErrors, OfTheCacheLeaveItAsItWas) {
  const Case<double> it(6, 8, 4, 3);
  KeyValueCache<double> cache;
  cache.append(it.keys, it.values);
  EXPECT_EQ(message_of([&] { cache.append(it.keys.leftCols(3), it.values); }),
            "gma::baselines::KeyValueCache::append: keys has 3 columns, expected 4 (as many as the cache)");
  EXPECT_EQ(message_of([&] { cache.append(it.keys, it.values.topRows(2)); }),
            "gma::baselines::KeyValueCache::append: values has 2 rows, expected 8 (one per key)");
  EXPECT_EQ(message_of([&] { sdpa_decode(it.queries, cache); }),
            "gma::baselines::sdpa_decode: query has 6 rows, expected 1 (one token)");
  EXPECT_EQ(cache.size(), 8);
  EXPECT_EQ(cache.keys(), it.keys);
}

}  // namespace
