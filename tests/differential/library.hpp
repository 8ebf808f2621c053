// SPDX-License-Identifier: MIT
// From the numbers of a case to what the library takes, and back. Every matrix reaches the library as one type of map,
// whatever its layout, so that each verb is compiled once per scalar.
#pragma once

#include "../executors.hpp"
#include "cases.hpp"

namespace gma_test::differential {

inline const gma::Executor* executor_of(Index number) {
  static const Threads one(1), two(2), three(3);
  static const Backwards backwards;
  const gma::Executor* const all[] = {nullptr, &one, &two, &three, &backwards};
  return all[number];
}

/// Any rows of any layout.
template <class T>
using View = Eigen::Map<Matrix<T>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;

template <class T>
View<T> rows(const View<T>& view, Size begin, Size count) {
  T* const first = const_cast<T*>(view.data()) + static_cast<Index>(begin) * view.outerStride();
  return View<T>(first, static_cast<Index>(count), view.cols(), {view.outerStride(), view.innerStride()});
}

/// A matrix in a buffer of its own; what lies between its numbers is NaN and must stay so.
template <class T>
class Operand {
 public:
  Operand(Size rows, Size cols, Layout layout) : rows_(static_cast<Index>(rows)), cols_(static_cast<Index>(cols)) {
    const bool by_columns = layout == Layout::column_major || layout == Layout::column_major_gaps;
    const Index gap = layout == Layout::gaps || layout == Layout::column_major_gaps ? 3 : 0;
    row_stride_ = by_columns ? 1 + gap / 3 : cols_ + gap;
    col_stride_ = by_columns ? rows_ * row_stride_ + gap : 1;
    buffer_.setConstant(rows_ * row_stride_ + cols_ * col_stride_ + 1, static_cast<T>(not_a_number));
  }
  Operand(const Numbers<double>& numbers, Size rows, Size cols, Layout layout) : Operand(rows, cols, layout) {
    View<T> all = view();
    for (Index i = 0; i < rows_; ++i) {
      for (Index j = 0; j < cols_; ++j) all(i, j) = static_cast<T>(numbers[static_cast<Size>(i * cols_ + j)]);
    }
  }

  View<T> view() { return View<T>(buffer_.data(), rows_, cols_, {row_stride_, col_stride_}); }
  Numbers<double> numbers() {
    Numbers<double> result;
    const View<T> all = view();
    for (Index i = 0; i < rows_; ++i) {
      for (Index j = 0; j < cols_; ++j) result.push_back(static_cast<double>(all(i, j)));
    }
    return result;
  }
  /// Numbers of the buffer that are not NaN, to see that gaps are left alone.
  Index written() const {
    Index count = 0;
    for (Index i = 0; i < buffer_.size(); ++i) count += buffer_(i) == buffer_(i) ? 1 : 0;
    return count;
  }

 private:
  Index rows_, cols_, row_stride_ = 0, col_stride_ = 0;
  Vector<T> buffer_;
};

template <class S>
Vector<S> vector_of(const Numbers<double>& numbers) {
  Vector<S> result(static_cast<Index>(numbers.size()));
  for (Index i = 0; i < result.size(); ++i) result(i) = static_cast<S>(numbers[static_cast<Size>(i)]);
  return result;
}
template <class S>
Matrix<S> matrix_of(const Numbers<double>& numbers, Size rows, Size cols) {
  Matrix<S> result(static_cast<Index>(rows), static_cast<Index>(cols));
  for (Index i = 0; i < result.size(); ++i) result.data()[i] = static_cast<S>(numbers[static_cast<Size>(i)]);
  return result;
}
template <class Derived>
Numbers<double> numbers_of(const Eigen::PlainObjectBase<Derived>& matrix) {
  return Numbers<double>(matrix.data(), matrix.data() + matrix.size());
}

template <class S, class C>
void set(gma::Mixture<S, C>& mixture, const std::vector<Factor<double>>& factors, Size m = 0) {
  const Factor<double>& factor = factors[m];
  mixture = gma::Mixture<S, C>(static_cast<Index>(factor.components), static_cast<Index>(factor.dim));
  mixture.weight_logits = vector_of<S>(factor.weight_logits);
  mixture.means = matrix_of<S>(factor.means, factor.components, factor.dim);
  const Size cols = factor.log_scales.size() / static_cast<Size>(mixture.log_scales.rows());
  mixture.log_scales = matrix_of<S>(factor.log_scales, static_cast<Size>(mixture.log_scales.rows()), cols);
  mixture.log_temperature = static_cast<S>(factor.log_temperature[0]);
}
template <class S, class C>
void set(gma::ProductMixture<S, C>& mixture, const std::vector<Factor<double>>& factors) {
  mixture.factors.resize(factors.size());
  for (Size m = 0; m < factors.size(); ++m) set(mixture.factors[m], factors, m);
}

/// f(mixture) with the type that the case asks for.
template <class S, class F>
void with_mixture(const Case& c, const F& f) {
  const auto with_family = [&](auto flat, auto product) {
    if (c.is_product) {
      set(product, c.given.factors);
      f(product);
    } else {
      set(flat, c.given.factors);
      f(flat);
    }
  };
  switch (c.given.factors[0].family) {
    case Family::isotropic:
      return with_family(gma::Mixture<S, gma::Isotropic>(), gma::ProductMixture<S, gma::Isotropic>());
    case Family::diagonal:
      return with_family(gma::Mixture<S, gma::Diagonal>(), gma::ProductMixture<S, gma::Diagonal>());
    case Family::tied:
      return with_family(gma::Mixture<S, gma::Tied>(), gma::ProductMixture<S, gma::Tied>());
    case Family::full:
      return with_family(gma::Mixture<S, gma::Full>(), gma::ProductMixture<S, gma::Full>());
  }
}

template <class S>
TokenInputs<S> tokens_of(const Given<double>& given) {
  return {vector_of<S>(given.key_weights), vector_of<S>(given.log_forgetting)};
}
template <class S>
Memory<S> memory_of(const Numbers<double>& slots, const Numbers<double>& mass, double log_forgetting, Size width) {
  return {matrix_of<S>(slots, mass.size(), width), vector_of<S>(mass), static_cast<S>(log_forgetting)};
}

/// Adds the gradient of a mixture to that of the given's factors.
template <class S, class C>
void add(const gma::Mixture<S, C>& gradient, std::vector<Factor<double>>& factors, Size m = 0) {
  const auto add_part = [](Numbers<double>& sum, const auto& part) {
    ASSERT_EQ(static_cast<Index>(sum.size()), part.size());
    for (Size i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(part.data()[i]);
  };
  add_part(factors[m].weight_logits, gradient.weight_logits);
  add_part(factors[m].means, gradient.means);
  add_part(factors[m].log_scales, gradient.log_scales);
  factors[m].log_temperature[0] += static_cast<double>(gradient.log_temperature);
}
template <class S, class C>
void add(const gma::ProductMixture<S, C>& gradient, std::vector<Factor<double>>& factors) {
  ASSERT_EQ(gradient.factors.size(), factors.size());
  for (Size m = 0; m < factors.size(); ++m) add(gradient.factors[m], factors, m);
}

// Comparisons --------------------------------------------------------------------------------------------------------

inline double norm(const Numbers<double>& numbers) {
  double sum = 0;
  for (const double x : numbers) sum += x * x;
  return std::sqrt(sum);
}

/// ||a - b|| <= tolerance * max(||b||, floor); NaN is never close.
inline void expect_close(const char* name, const Numbers<double>& a, const Numbers<double>& b, double tolerance,
                         double floor = 0) {
  ASSERT_EQ(a.size(), b.size()) << name;
  Numbers<double> difference(a.size());
  for (Size i = 0; i < a.size(); ++i) difference[i] = a[i] == b[i] ? 0 : a[i] - b[i];
  const double scale = std::max(norm(b), floor), error = norm(difference);
  EXPECT_TRUE(error <= tolerance * scale) << name << ": relative error " << error / scale << " exceeds " << tolerance;
}

inline Given<double> zeros_like(const Given<double>& given) {
  Given<double> result = given;
  oracle::for_each_part([](const char*, Numbers<double>& part) { part.assign(part.size(), 0.0); }, result);
  return result;
}

/// Tokens that are not there have gradients of exactly zero.
inline void expect_absent_gradients(const Given<double>& given, const Given<double>& gradient) {
  for (Size j = 0; j < given.key_count(); ++j) {
    if (given.present(j)) continue;
    for (Size i = 0; i < given.dim; ++i) ASSERT_EQ(gradient.keys[j * given.dim + i], 0) << "absent key " << j;
    for (Size i = 0; i < given.width; ++i) ASSERT_EQ(gradient.values[j * given.width + i], 0) << "absent value " << j;
    ASSERT_EQ(gradient.key_weights[j], 0) << "absent weight " << j;
    if (given.log_forgetting.empty()) continue;
    ASSERT_EQ(gradient.log_forgetting[j], 0) << "forgetting of absent token " << j;
  }
}

/// What a part is held to at least: `floor`, and, since the gradient of log tau is a sum of logits times their
/// gradients, that times the largest logit.
inline double floor_of(const std::string& part, double floor, double largest_logit) {
  return part == "log_temperature" ? floor * largest_logit : floor;
}

/// Compares with the whole gradient where that is cheap, else with slopes along one random direction per part.
/// Parts that `actual` leaves out are not compared. A part that is small beside the whole, since its terms cancel
/// (where one responsibility is nearly 1 they do), is held to `floor` times the size of the whole, in which `size`
/// counts for the parts that are left out.
inline void expect_gradient(const Case& c, const Given<double>& actual, double tolerance, double floor, Random& random,
                            double size = 0) {
  const Given<double>& given = c.given;
  Size numbers = 0;
  double total = size * size;
  oracle::for_each_part(
      [&](const char*, const Numbers<double>& part) {
        numbers += part.size();
        total += norm(part) * norm(part);
      },
      actual);
  floor *= std::sqrt(total);
  const Size work = (given.query_count() + given.key_count()) * given.components() * (given.dim + given.width + 4);
  if (work * numbers < 4000000) {
    const Given<double> expected = oracle::gradient(c.verb, c.divisor, given, c.upstream);
    oracle::for_each_part(
        [&](const char* name, const Numbers<double>& a, const Numbers<double>& b) {
          if (!a.empty()) expect_close(name, a, b, tolerance, floor_of(name, floor, c.tolerance_factor));
        },
        actual, expected);
    return;
  }
  Given<double> direction = given;
  oracle::for_each_part(
      [&](const char*, Numbers<double>& part) {
        for (double& x : part) x = chance(random, 0.5) ? 1 : -1;
      },
      direction);
  const Numbers<double> expected = oracle::directional(c.verb, c.divisor, given, direction, c.upstream);
  Size next = 0;
  oracle::for_each_part(
      [&](const char* name, const Numbers<double>& part, const Numbers<double>& along) {
        const double wanted = expected[next++];
        if (part.empty()) return;
        double slope = 0;
        for (Size i = 0; i < part.size(); ++i) slope += part[i] * along[i];
        // Errors of random signs add up to their norm; five times that is not met by chance.
        const double least = floor_of(name, floor, c.tolerance_factor);
        const double scale = 5 * std::max(norm(part), least), error = std::abs(slope - wanted);
        EXPECT_TRUE(error <= tolerance * scale) << name << ": the slope along a random direction is off by "
                                                << error / scale << ", more than " << tolerance;
      },
      actual, direction);
}

}  // namespace gma_test::differential
