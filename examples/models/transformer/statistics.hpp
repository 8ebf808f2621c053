// SPDX-License-Identifier: MIT
//
// The statistics of a few runs: spread, confidence interval of a mean, and Welch's test of two means. They assume that
// runs are independent and that their figures are about normal.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

namespace transformer {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

inline double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / double(values.size());
}

// Of the sample, with n - 1 in the denominator. NaN for fewer than two values.
inline double standard_deviation(const std::vector<double>& values) {
  if (values.size() < 2) return not_a_number;
  const double center = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - center) * (value - center);
  return std::sqrt(sum / double(values.size() - 1));
}

// The regularised incomplete beta function I_x(a, b) of positive a and b and x in [0, 1], to about 1e-14. The continued
// fraction (DLMF 8.17.22) by Lentz's method converges fast for x < (a + 1) / (a + b + 2); I_x(a, b) = 1 - I_1-x(b, a).
inline double incomplete_beta(double a, double b, double x) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(b, a, 1 - x);
  constexpr double tiny = 1e-300;
  const auto away_from_zero = [](double value) { return std::abs(value) < tiny ? tiny : value; };
  double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1)), fraction = d;
  for (int m = 1; m <= 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double change = 1;
    for (const double numerator : {even, odd}) {
      d = 1 / away_from_zero(1 + numerator * d);
      c = away_from_zero(1 + numerator / c);
      change = c * d;
      fraction *= change;
    }
    if (std::abs(change - 1) < 1e-15) break;
  }
  const double log_beta = std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b);
  return std::exp(a * std::log(x) + b * std::log1p(-x) - log_beta) * fraction / a;
}

// The probability that |T| is at least |t|, T of Student's distribution; `freedom` need not be an integer.
inline double two_sided_p(double t, double freedom) {
  return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t));
}

// The t with two_sided_p(t, freedom) = 1 - confidence: by bisection, because p falls with t.
inline double student_t_quantile(double confidence, double freedom) {
  double low = 0, high = 1;
  while (two_sided_p(high, freedom) > 1 - confidence) high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (two_sided_p(middle, freedom) > 1 - confidence ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

// Half the width of the confidence interval of the mean. NaN for fewer than two values.
inline double half_interval(const std::vector<double>& values, double confidence = 0.95) {
  if (values.size() < 2) return not_a_number;
  return student_t_quantile(confidence, double(values.size() - 1)) * standard_deviation(values) /
         std::sqrt(double(values.size()));
}

struct WelchTest {
  double t, freedom, p;  // p: two-sided
};

// Whether two means differ, for samples whose variances may differ. NaN if a sample has fewer than two values, or if
// all values of both are the same number.
inline WelchTest welch_test(const std::vector<double>& a, const std::vector<double>& b) {
  WelchTest result{not_a_number, not_a_number, not_a_number};
  if (a.size() < 2 || b.size() < 2) return result;
  const double n_a = double(a.size()), n_b = double(b.size());
  const double error_a = std::pow(standard_deviation(a), 2) / n_a, error_b = std::pow(standard_deviation(b), 2) / n_b;
  const double difference = mean(a) - mean(b), error = error_a + error_b;
  if (error == 0 && difference == 0) return result;
  if (error == 0) return {difference / error, n_a + n_b - 2, 0};
  result.t = difference / std::sqrt(error);
  result.freedom = error * error / (error_a * error_a / (n_a - 1) + error_b * error_b / (n_b - 1));
  result.p = two_sided_p(result.t, result.freedom);
  return result;
}

}  // namespace transformer
