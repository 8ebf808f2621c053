// SPDX-License-Identifier: MIT
// Random cases of the multi-head verbs: grouped queries, packed, padded and masked batches, tensors of any strides.
#pragma once

#include "gma/heads/heads_backward.hpp"
#include "verbs.hpp"

namespace gma_test::differential {

/// Which rows are whose.
struct Rows {
  Size batch = 1, rows = 0;  // entries; rows of all of them
  gma::Sequences sequences;
  std::vector<std::vector<Size>> members;  // of each sequence

  bool is_member(Size row) const {
    for (const auto& sequence : members) {
      if (std::find(sequence.begin(), sequence.end(), row) != sequence.end()) return true;
    }
    return false;
  }
};

/// `kind`: 0 whole entries, 1 packed, 2 padded.
inline Rows random_rows(Random& random, Size kind, Size sequences, bool is_masked, bool is_long) {
  Rows result;
  std::vector<Size> lengths(sequences);
  for (Size& length : lengths) {
    length = is_long ? pick(random, {0, 1, 50, 96, 97, 200}) : pick(random, {0, 1, 1, 2, 3, 5, 9});
  }
  if (kind == 1) {
    result.sequences.offsets = {0};
    for (const Size length : lengths) {
      result.members.emplace_back();
      for (Size t = 0; t < length; ++t) result.members.back().push_back(result.rows++);
      result.sequences.offsets.push_back(static_cast<std::int64_t>(result.rows));
    }
  } else {
    const Size padded = kind == 0 ? lengths[0] : *std::max_element(lengths.begin(), lengths.end()) + 1;
    result.batch = sequences;
    result.rows = sequences * padded;
    for (Size b = 0; b < sequences; ++b) {
      const Size length = kind == 0 ? padded : lengths[b];
      if (kind == 2) result.sequences.lengths.push_back(static_cast<std::int64_t>(length));
      result.members.emplace_back();
      for (Size t = 0; t < length; ++t) result.members.back().push_back(b * padded + t);
    }
  }
  if (!is_masked || result.rows == 0) return result;
  for (Size row = 0; row < result.rows; ++row) result.sequences.keep.push_back(chance(random, 0.3) ? 0 : 1);
  for (auto& sequence : result.members) {
    const auto is_dropped = [&](Size row) { return result.sequences.keep[row] == 0; };
    sequence.erase(std::remove_if(sequence.begin(), sequence.end(), is_dropped), sequence.end());
  }
  return result;
}

/// A [batch, tokens, heads, width] tensor in a buffer of its own, in one of several orders of its dimensions.
template <class T>
class HeadOperand {
 public:
  HeadOperand(const Rows& rows, Size heads, Size width, Size order) {
    const Index B = static_cast<Index>(rows.batch), N = static_cast<Index>(rows.rows / rows.batch);
    const Index H = static_cast<Index>(heads), w = static_cast<Index>(width);
    numbers_.setConstant(2 * B * (N + 1) * (H + 1) * (w + 3) + 1, static_cast<T>(not_a_number));
    tensor = order == 0   ? gma::batch_tokens_heads(numbers_.data(), B, N, H, w)
             : order == 1 ? gma::batch_heads_tokens(numbers_.data(), B, H, N, w)
             : order == 2
                 ? gma::HeadTensor<T>{numbers_.data(), B, N, H, w, (N + 1) * H * (w + 3), H * (w + 3), w + 3, 1}
                 : gma::HeadTensor<T>{numbers_.data(), B, N, H, w, 2 * N * H * w, 2 * H * w, 2 * w, 2};
  }
  /// `dense`: rows x (heads width).
  HeadOperand(const Numbers<double>& dense, const Rows& rows, Size heads, Size width, Size order)
      : HeadOperand(rows, heads, width, order) {
    for (Size i = 0; i < dense.size(); ++i) at(i) = static_cast<T>(dense[i]);
  }

  Numbers<double> dense() {
    Numbers<double> result(static_cast<Size>(tensor.rows() * tensor.heads * tensor.width));
    for (Size i = 0; i < result.size(); ++i) result[i] = static_cast<double>(at(i));
    return result;
  }

  gma::HeadTensor<T> tensor;

 private:
  T& at(Size i) {
    const Index n = static_cast<Index>(i), w = n % tensor.width, h = n / tensor.width % tensor.heads;
    const Index row = n / tensor.width / tensor.heads;
    return tensor.head(h, row, 1)(0, w);
  }

  Vector<T> numbers_;
};

struct HeadCase {
  bool is_causal = true;
  Divisor divisor = Divisor::slot;
  Size key_heads = 1, group = 1, dim = 1, width = 1;
  std::vector<std::vector<Factor<double>>> mixtures;
  Rows query_rows, key_rows;
  Numbers<double> queries, keys, values, d_outputs, key_weights, log_forgetting;
  bool has_memories = false;
  std::vector<Given<double>> memories;  // of each sequence and key head: slots, mass and log_forgetting
  std::vector<Upstream> d_memories;
  Size orders[5] = {};
  Index tile = 0, executor = 0, segment = 0;
  double tolerance_factor = 1;

  Size query_heads() const { return key_heads * group; }
  gma::Options options() const {
    gma::Options options;
    options.normalization = static_cast<Normalization>(static_cast<int>(divisor));
    options.tile = tile;
    options.executor = executor_of(executor);
    options.segment = segment;
    return options;
  }
  std::string description() const {
    std::ostringstream out;
    out << (is_causal ? "causal, " : "bidirectional, ") << name_of(options().normalization) << ", " << key_heads
        << " key heads, groups of " << group << ", d " << dim << ", e " << width << ", " << query_rows.batch << " x "
        << query_rows.rows / query_rows.batch << " rows, sequences of";
    for (Size i = 0; i < query_rows.members.size(); ++i) {
      out << " " << query_rows.members[i].size() << "/" << key_rows.members[i].size();
    }
    out << (query_rows.sequences.keep.empty() ? "" : ", masked") << (key_weights.empty() ? "" : ", weights")
        << (log_forgetting.empty() ? "" : ", forgetting") << (has_memories ? ", memories" : "") << ", orders";
    for (const Size order : orders) out << " " << order;
    out << ", tile " << tile << ", segment " << segment << ", executor " << executor_names[executor];
    return out.str();
  }

  /// Rows of one sequence and head of a rows x (heads width) matrix.
  static Numbers<double> gathered(const Numbers<double>& dense, const std::vector<Size>& rows, Size heads, Size head,
                                  Size width) {
    Numbers<double> result;
    for (const Size row : rows) {
      for (Size i = 0; i < width; ++i) result.push_back(dense[(row * heads + head) * width + i]);
    }
    return result;
  }
  static void add_gathered(Numbers<double>& dense, const Numbers<double>& part, const std::vector<Size>& rows,
                           Size heads, Size head, Size width) {
    for (Size t = 0; t < rows.size() && !part.empty(); ++t) {
      for (Size i = 0; i < width; ++i) dense[(rows[t] * heads + head) * width + i] += part[t * width + i];
    }
  }

  /// The single-head problem of query head `head` and sequence i.
  Given<double> given(Size i, Size head) const {
    const Size h = head / group;
    const std::vector<Size>&q = query_rows.members[i], &k = key_rows.members[i];
    Given<double> result = memories[i * key_heads + h];
    result.factors = mixtures[h];
    result.dim = dim;
    result.width = width;
    result.queries = gathered(queries, q, query_heads(), head, dim);
    result.keys = gathered(keys, k, key_heads, h, dim);
    result.values = gathered(values, k, key_heads, h, width);
    if (!key_weights.empty()) result.key_weights = gathered(key_weights, k, 1, 0, 1);
    if (!log_forgetting.empty()) result.log_forgetting = gathered(log_forgetting, k, key_heads, h, 1);
    return result;
  }
};

inline HeadCase random_head_case(Random& random, Rounding round, bool is_long) {
  HeadCase c;
  c.is_causal = chance(random, 0.6);
  c.divisor = static_cast<Divisor>(pick(random, {0, 1, 1, 2}));
  c.key_heads = pick(random, {1, 2, 3});
  c.group = pick(random, {1, 1, 2, 3});
  c.width = pick(random, {1, 2, 3, 8});
  const Size split = pick(random, {0, 1, 2});  // one factor, or two
  const Size dims[] = {pick(random, {1, 3, 4}), split};
  c.dim = dims[0] + dims[1];
  for (Size h = 0; h < c.key_heads; ++h) {
    c.mixtures.emplace_back();
    for (const Size d : dims) {
      const Size K = pick(random, {1, 2, 3, 5});
      if (d > 0) c.mixtures.back().push_back(random_factor(random, Family::diagonal, K, d, false, round));
    }
  }
  const Size kind = pick(random, {0, 1, 2}), sequences = pick(random, {1, 2, 4});
  const bool is_masked = chance(random, 0.3);
  c.query_rows = random_rows(random, kind, sequences, is_masked, is_long);
  c.key_rows = c.query_rows;
  if (!c.is_causal && chance(random, 0.5)) c.key_rows = random_rows(random, kind, sequences, is_masked, is_long);
  const Size nq = c.query_rows.rows, nk = c.key_rows.rows;
  c.queries = normals(random, nq * c.query_heads() * c.dim, 1, round);
  c.keys = normals(random, nk * c.key_heads * c.dim, 1, round);
  c.values = normals(random, nk * c.key_heads * c.width, 1, round);
  c.d_outputs = normals(random, nq * c.query_heads() * c.width, 1, round);
  if (chance(random, 0.4)) c.key_weights = random_weights(random, nk, round);
  if (chance(random, 0.4)) {
    c.log_forgetting.resize(nk * c.key_heads);
    for (Size h = 0; h < c.key_heads; ++h) {
      const Numbers<double> g = random_forgetting(random, c.key_weights, nk, round);
      for (Size j = 0; j < nk; ++j) c.log_forgetting[j * c.key_heads + h] = g[j];
    }
  }
  const auto poison_rows = [](Numbers<double>& dense, const Rows& rows, Size cols) {
    for (Size i = 0; i < dense.size(); ++i) {
      if (!rows.is_member(i / cols)) dense[i] = i % 2 == 0 ? not_a_number : infinity;
    }
  };
  poison_rows(c.queries, c.query_rows, c.query_heads() * c.dim);
  poison_rows(c.d_outputs, c.query_rows, c.query_heads() * c.width);
  poison_rows(c.keys, c.key_rows, c.key_heads * c.dim);
  poison_rows(c.values, c.key_rows, c.key_heads * c.width);
  poison_rows(c.key_weights, c.key_rows, 1);
  poison_rows(c.log_forgetting, c.key_rows, c.key_heads);

  c.has_memories = c.is_causal && chance(random, 0.5);
  for (Size i = 0; i < sequences * c.key_heads; ++i) {
    Given<double> memory;
    memory.factors = c.mixtures[i % c.key_heads];
    const Size K = memory.components();
    memory.memory_log_forgetting = {c.has_memories ? round(-random.uniform()) : 0};
    memory.slots = c.has_memories ? normals(random, K * c.width, 1, round) : Numbers<double>(K * c.width, 0.0);
    for (Size k = 0; k < K; ++k) memory.mass.push_back(c.has_memories ? round(2 * random.uniform()) : 0);
    c.memories.push_back(memory);
    const bool d = c.has_memories;
    c.d_memories.push_back({{},
                            d ? normals(random, K * c.width, 1, round) : Numbers<double>(K * c.width, 0.0),
                            d ? normals(random, K, 1, round) : Numbers<double>(K, 0.0),
                            d ? round(random.normal()) : 0});
  }
  for (Size& order : c.orders) order = pick(random, {0, 0, 1, 2, 3});
  c.tile = static_cast<Index>(pick(random, {0, 0, 1, 5, 40}));
  c.executor = static_cast<Index>(pick(random, {0, 0, 1, 2, 3, 4}));
  c.segment = static_cast<Index>(pick(random, {0, 0, 1, 2, 5, 11, 64}));
  for (Size i = 0; i < sequences; ++i) {
    for (Size head = 0; head < c.query_heads(); ++head) {
      c.tolerance_factor = std::max(c.tolerance_factor, oracle::largest_logit(c.given(i, head)));
    }
  }
  return c;
}

// The library --------------------------------------------------------------------------------------------------------

template <class S>
using HeadMixture = gma::ProductMixture<S, gma::Diagonal>;

template <class S>
struct HeadLibrary {
  const HeadCase& c;
  std::vector<HeadMixture<S>> mixtures;
  HeadOperand<S> queries, keys, values, outputs, d_outputs;
  gma::HeadInputs<S> inputs;
  std::vector<Memory<S>> memories, d_memories;

  explicit HeadLibrary(const HeadCase& head_case)
      : c(head_case),
        mixtures(c.key_heads),
        queries(c.queries, c.query_rows, c.query_heads(), c.dim, c.orders[0]),
        keys(c.keys, c.key_rows, c.key_heads, c.dim, c.orders[1]),
        values(c.values, c.key_rows, c.key_heads, c.width, c.orders[2]),
        outputs(c.query_rows, c.query_heads(), c.width, c.orders[3]),
        d_outputs(c.d_outputs, c.query_rows, c.query_heads(), c.width, c.orders[4]) {
    for (Size h = 0; h < c.key_heads; ++h) set(mixtures[h], c.mixtures[h]);
    inputs.sequences = c.query_rows.sequences;
    if (!c.is_causal) inputs.key_sequences = c.key_rows.sequences;
    inputs.key_weights = vector_of<S>(c.key_weights);
    if (!c.log_forgetting.empty()) inputs.log_forgetting = matrix_of<S>(c.log_forgetting, c.key_rows.rows, c.key_heads);
    for (Size i = 0; i < c.memories.size() && c.has_memories; ++i) {
      const Given<double>& m = c.memories[i];
      memories.push_back(memory_of<S>(m.slots, m.mass, m.memory_log_forgetting[0], c.width));
      const Upstream& d = c.d_memories[i];
      d_memories.push_back(memory_of<S>(d.slots, d.mass, d.log_forgetting, c.width));
    }
  }

  void forward(gma::Workspace<S>& workspace) {
    if (!c.is_causal) {
      gma::bidirectional_into(outputs.tensor, mixtures, queries.tensor, keys.tensor, values.tensor, c.options(), inputs,
                              workspace);
    } else {
      gma::causal_into(outputs.tensor, mixtures, queries.tensor, keys.tensor, values.tensor, memories, c.options(),
                       inputs, workspace);
    }
  }

  void backward(gma::HeadGradients<HeadMixture<S>>& gradients, gma::Workspace<S>& workspace) {
    if (!c.is_causal) {
      gma::bidirectional_backward_into(gradients, mixtures, queries.tensor, keys.tensor, values.tensor,
                                       d_outputs.tensor, c.options(), inputs, workspace);
    } else {
      gma::causal_backward_into(gradients, mixtures, queries.tensor, keys.tensor, values.tensor, d_outputs.tensor,
                                memories, d_memories, c.options(), inputs, workspace);
    }
  }

  /// The single-head verb, for query head `head` of sequence i.
  Matrix<S> single(Size i, Size head) const {
    const Given<double> given = c.given(i, head);
    const Matrix<S> q = matrix_of<S>(given.queries, given.query_count(), c.dim);
    const Matrix<S> k = matrix_of<S>(given.keys, given.key_count(), c.dim);
    const Matrix<S> v = matrix_of<S>(given.values, given.key_count(), c.width);
    gma::Options options = c.options();
    options.executor = nullptr;
    const HeadMixture<S>& mixture = mixtures[head / c.group];
    if (!c.is_causal) return gma::bidirectional(mixture, q, k, v, options, tokens_of<S>(given));
    Memory<S> memory = memory_of<S>(given.slots, given.mass, given.memory_log_forgetting[0], c.width);
    return gma::causal(mixture, q, k, v, memory, options, tokens_of<S>(given));
  }
};

// The checks ---------------------------------------------------------------------------------------------------------

template <class S>
void check_head_forward(const HeadCase& c, gma::Workspace<S>& workspace) {
  HeadLibrary<S> library(c);
  library.forward(workspace);
  const Size Hq = c.query_heads();
  const double tolerance = forward_tolerance<S>() * c.tolerance_factor;
  Numbers<double> expected(c.query_rows.rows * Hq * c.width, 0.0), single = expected;
  for (Size i = 0; i < c.query_rows.members.size(); ++i) {
    for (Size head = 0; head < Hq; ++head) {
      const oracle::Result<double> result =
          oracle::run(c.is_causal ? Verb::causal : Verb::bidirectional, c.divisor, c.given(i, head));
      HeadCase::add_gathered(expected, result.outputs, c.query_rows.members[i], Hq, head, c.width);
      HeadCase::add_gathered(single, numbers_of(in_double(library.single(i, head))), c.query_rows.members[i], Hq, head,
                             c.width);
      if (!c.is_causal || head % c.group != 0) continue;
      const Memory<S>& memory = library.memories[i * c.key_heads + head / c.group];
      expect_close("slots", numbers_of(in_double(memory.slots)), result.slots, tolerance);
      expect_close("mass", numbers_of(Vector<double>(memory.mass.template cast<double>())), result.mass, tolerance);
      expect_close("log_forgetting", {static_cast<double>(memory.log_forgetting)}, {result.log_forgetting}, tolerance);
    }
  }
  const Numbers<double> actual = library.outputs.dense();
  expect_close("outputs", actual, expected, tolerance);
  if (c.group == 1) {
    EXPECT_EQ(actual, single) << "not the bits of the single-head verb";
  }
  for (Size i = 0; i < actual.size(); ++i) {
    const Size row = i / Hq / c.width;
    ASSERT_TRUE(c.query_rows.is_member(row) || actual[i] == 0) << "row " << row;
  }
}

template <class S>
void check_head_backward(const HeadCase& c, gma::Workspace<S>& workspace) {
  HeadLibrary<S> library(c);
  gma::HeadGradients<HeadMixture<S>> actual;
  library.backward(actual, workspace);
  const Size Hq = c.query_heads(), H = c.key_heads;
  Numbers<double> queries(c.query_rows.rows * Hq * c.dim, 0.0), keys(c.key_rows.rows * H * c.dim, 0.0);
  Numbers<double> values(c.key_rows.rows * H * c.width, 0.0), weights(c.key_weights.size(), 0.0);
  Numbers<double> forgetting(c.log_forgetting.size(), 0.0);
  std::vector<Given<double>> memories(c.memories.size()), mixtures(H), actual_mixtures(H);
  double total = 0;
  for (Size h = 0; h < H; ++h) {
    mixtures[h].factors = c.mixtures[h];
    mixtures[h] = zeros_like(mixtures[h]);
    actual_mixtures[h] = mixtures[h];
    add(actual.mixtures[h], actual_mixtures[h].factors);
  }
  for (Size i = 0; i < c.memories.size(); ++i) memories[i] = zeros_like(c.memories[i]);
  for (Size i = 0; i < c.query_rows.members.size(); ++i) {
    const std::vector<Size>&q = c.query_rows.members[i], &k = c.key_rows.members[i];
    for (Size head = 0; head < Hq; ++head) {
      const Size h = head / c.group;
      Upstream upstream = c.d_memories[i * H + h];
      if (head % c.group != 0) {  // the memory is advanced once
        upstream.slots.assign(upstream.slots.size(), 0);
        upstream.mass.assign(upstream.mass.size(), 0);
        upstream.log_forgetting = 0;
      }
      upstream.outputs = HeadCase::gathered(c.d_outputs, q, Hq, head, c.width);
      Given<double> one =
          oracle::gradient(c.is_causal ? Verb::causal : Verb::bidirectional, c.divisor, c.given(i, head), upstream);
      HeadCase::add_gathered(queries, one.queries, q, Hq, head, c.dim);
      HeadCase::add_gathered(keys, one.keys, k, H, h, c.dim);
      HeadCase::add_gathered(values, one.values, k, H, h, c.width);
      HeadCase::add_gathered(weights, one.key_weights, k, 1, 0, 1);
      HeadCase::add_gathered(forgetting, one.log_forgetting, k, H, h, 1);
      oracle::for_each_part([&](const char*, Numbers<double>& part) { total += norm(part) * norm(part); }, one);
      const auto add_numbers = [](Numbers<double>& sum, const Numbers<double>& part) {
        for (Size n = 0; n < sum.size(); ++n) sum[n] += part[n];
      };
      Given<double>& memory = memories[i * H + h];
      add_numbers(memory.slots, one.slots);
      add_numbers(memory.mass, one.mass);
      add_numbers(memory.memory_log_forgetting, one.memory_log_forgetting);
      for (Size m = 0; m < one.factors.size(); ++m) {
        Factor<double>&sum = mixtures[h].factors[m], &part = one.factors[m];
        add_numbers(sum.weight_logits, part.weight_logits);
        add_numbers(sum.means, part.means);
        add_numbers(sum.log_scales, part.log_scales);
        add_numbers(sum.log_temperature, part.log_temperature);
      }
    }
  }
  const double tolerance = gradient_tolerance<S>() * c.tolerance_factor;
  const double floor = gradient_floor<S>() * std::sqrt(total);
  const auto in_numbers = [](const auto& matrix) {
    Numbers<double> result(static_cast<Size>(matrix.size()));
    for (Size n = 0; n < result.size(); ++n) result[n] = static_cast<double>(matrix.data()[n]);
    return result;
  };
  expect_close("queries", in_numbers(actual.queries), queries, tolerance, floor);
  expect_close("keys", in_numbers(actual.keys), keys, tolerance, floor);
  expect_close("values", in_numbers(actual.values), values, tolerance, floor);
  expect_close("key_weights", in_numbers(actual.key_weights), weights, tolerance, floor);
  expect_close("log_forgetting", in_numbers(actual.log_forgetting), forgetting, tolerance, floor);
  for (Size i = 0; i < memories.size(); ++i) {
    expect_close("memory.slots", in_numbers(actual.memories[i].slots), memories[i].slots, tolerance, floor);
    expect_close("memory.mass", in_numbers(actual.memories[i].mass), memories[i].mass, tolerance, floor);
    expect_close("memory.log_forgetting", {static_cast<double>(actual.memories[i].log_forgetting)},
                 memories[i].memory_log_forgetting, tolerance, floor);
  }
  for (Size h = 0; h < H; ++h) {
    oracle::for_each_part(
        [&](const char* name, const Numbers<double>& a, const Numbers<double>& b) {
          expect_close(name, a, b, tolerance, floor_of(name, floor, c.tolerance_factor));
        },
        actual_mixtures[h], mixtures[h]);
  }
}

}  // namespace gma_test::differential
