// SPDX-License-Identifier: MIT
// Outputs that lie where inputs lie. An output that is the same matrix as an input gives the results of one that lies
// elsewhere. Where they overlap in part, or an output lies in what a verb reads again, the results are right or the
// call is refused by name: never silently wrong.
#include <functional>

#include "gma/heads/heads_backward.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using S = float;
using Mixture = gma::Mixture<S>;
using gma::HeadTensor;

/// Any rows of any layout: one type, so that the verbs are compiled once.
using View = Eigen::Map<Matrix<S>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
View view(S* first, Index rows, Index cols, Index row_stride, Index col_stride = 1) {
  return View(first, rows, cols, {row_stride, col_stride});
}
View view(Matrix<S>& matrix) { return view(matrix.data(), matrix.rows(), matrix.cols(), matrix.cols()); }

Mixture random_mixture(Index components, Index dim) {
  Random random(1);
  Mixture mixture;
  randomize(mixture, components, dim, Regime::generic, random);
  return mixture;
}

Options with(Normalization normalization, Index tile = 0) {
  Options options;
  options.normalization = normalization;
  options.tile = tile;
  options.checkpoint_interval = 20;
  return options;
}

enum class Verb { causal, causal_from_memory, bidirectional };
constexpr const char* verb_names[] = {"causal", "causal from a memory", "bidirectional"};

/// The verb, into `out` wherever it lies; returns the memory that is left behind, if any.
Memory<S> run(Verb verb, View out, const gma::CompiledMixture<S>& mixture, View q, View k, View v,
              const Options& options, const TokenInputs<S>& tokens, gma::Workspace<S>& workspace) {
  Memory<S> memory;
  if (verb == Verb::bidirectional) {
    gma::bidirectional_into(out, mixture, q, k, v, options, tokens, workspace);
  } else if (verb == Verb::causal) {
    gma::causal_into(out, mixture, q, k, v, options, tokens, workspace);
  } else {
    memory = gma::empty_memory<S>(mixture.components(), v.cols());
    memory.mass.setConstant(S(3));
    gma::causal_into(out, mixture, q, k, v, memory, options, tokens, workspace);
  }
  return memory;
}

/// Calls; true if the call was refused by name.
bool is_refused(const std::function<void()>& call) {
  try {
    call();
    return false;
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find("overlap"), std::string::npos) << error.what();
    return true;
  }
}

template <class F>
void for_each_call(const F& f) {
  for (const Verb verb : {Verb::causal, Verb::causal_from_memory, Verb::bidirectional}) {
    for (const Normalization normalization : all_normalizations) {
      for (const Index tile : {0, 10}) {
        SCOPED_TRACE(testing::Message() << verb_names[static_cast<int>(verb)] << ", " << name_of(normalization)
                                        << ", tile " << tile);
        f(verb, with(normalization, tile));
      }
    }
  }
}

// The same matrix ----------------------------------------------------------------------------------------------------

TEST(Aliasing, AnOutputMayBeAnInput) {
  gma::Workspace<S> workspace;
  Random random(2);
  for (const Index components : {1, 3, 8, 17, 64}) {
    for (const Index width : {1, 7, 16, 33}) {
      const gma::CompiledMixture<S> mixture = gma::compile(random_mixture(components, width));
      for (const Index count : {1, 2, 40, 97, 500}) {
        const Matrix<S> x[3] = {random.matrix<S>(count, width), random.matrix<S>(count, width),
                                random.matrix<S>(count, width)};
        const TokenInputs<S> tokens = random_tokens<S>(count, true, random);
        SCOPED_TRACE(testing::Message() << count << " tokens, K " << components << ", width " << width);
        for_each_call([&](Verb verb, const Options& options) {
          Matrix<S> y(count, width);
          Matrix<S> a[3] = {x[0], x[1], x[2]};
          const Memory<S> left =
              run(verb, view(y), mixture, view(a[0]), view(a[1]), view(a[2]), options, tokens, workspace);
          for (int which = 0; which < 3; ++which) {
            Matrix<S> b[3] = {x[0], x[1], x[2]};
            const Memory<S> memory =
                run(verb, view(b[which]), mixture, view(b[0]), view(b[1]), view(b[2]), options, tokens, workspace);
            ASSERT_TRUE(close(b[which], y, forward_tolerance<S>())) << "out is input " << which;
            ASSERT_TRUE(close(memory, left, forward_tolerance<S>())) << "out is input " << which;
          }
        });
      }
    }
  }
}

TEST(Aliasing, AnOutputMayBeAllInputsAtOnceInAnyLayout) {
  gma::Workspace<S> workspace;
  Random random(3);
  constexpr Index count = 150, width = 9, stride = 12;
  const gma::CompiledMixture<S> mixture = gma::compile(random_mixture(7, width));
  const Matrix<S> x = random.matrix<S>(count, stride);
  for_each_call([&](Verb verb, const Options& options) {
    for (const bool column_major : {false, true}) {
      const auto place = [&](Matrix<S>& store) {
        return column_major ? view(store.data(), count, width, 1, count) : view(store.data(), count, width, stride);
      };
      Matrix<S> store = x, y(count, width);
      run(verb, view(y), mixture, place(store), place(store), place(store), options, {}, workspace);
      run(verb, place(store), mixture, place(store), place(store), place(store), options, {}, workspace);
      EXPECT_TRUE(close(place(store), y, forward_tolerance<S>())) << (column_major ? "column-major" : "row-major");
    }
  });
}

TEST(Aliasing, SixteenBitOutputsMayBeInputs) {
  using Stored = Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  gma::Workspace<S> workspace;
  Random random(4);
  constexpr Index count = 150, width = 9;
  const gma::CompiledMixture<S> mixture = gma::compile(random_mixture(7, width));
  const Stored x = random.matrix<S>(count, width).cast<Eigen::bfloat16>();
  for (const Normalization normalization : all_normalizations) {
    Stored y(count, width), v = x;
    gma::causal_into(y, mixture, x, x, x, with(normalization), TokenInputs<S>{}, workspace);
    gma::causal_into(v, mixture, v, v, v, with(normalization), TokenInputs<S>{}, workspace);
    EXPECT_TRUE(same_bits(v, y)) << name_of(normalization);
  }
}

// Overlaps in part ---------------------------------------------------------------------------------------------------

/// Inputs and output are blocks of one buffer, the output some rows and columns further on.
TEST(Aliasing, AnOutputThatOverlapsAnInputInPartIsRightOrRefused) {
  gma::Workspace<S> workspace;
  Random random(5);
  constexpr Index count = 150, width = 9, stride = 24, margin = 120;
  const gma::CompiledMixture<S> mixture = gma::compile(random_mixture(7, width));
  const Matrix<S> x = random.matrix<S>(count + 2 * margin, stride);
  const Matrix<S> other = random.matrix<S>(count, width);
  for_each_call([&](Verb verb, const Options& options) {
    for (int which = 0; which < 3; ++which) {
      for (const Index row : {-margin, -Index(11), -Index(1), Index(0), Index(1), Index(11), margin}) {
        for (const Index col : {0, 1, 8}) {
          const auto place = [&](Matrix<S>& store, Index i, Index j) {
            return view(store.data() + (margin + i) * stride + j, count, width, stride);
          };
          Matrix<S> store = x, y(count, width), others[3] = {other, other, other};
          const auto input = [&](int i) { return i == which ? place(store, 0, 0) : view(others[i]); };
          run(verb, view(y), mixture, input(0), input(1), input(2), options, {}, workspace);
          const auto call = [&] {
            run(verb, place(store, row, col), mixture, input(0), input(1), input(2), options, {}, workspace);
          };
          if (is_refused(call)) continue;
          ASSERT_TRUE(close(place(store, row, col), y, forward_tolerance<S>()))
              << "out is input " << which << ", " << row << " rows and " << col << " columns on";
        }
      }
    }
  });
}

/// A read writes to its queries or to the memory that it reads.
TEST(Aliasing, AReadMayWriteToItsQueriesAndToTheMemoryOnlyIfRight) {
  gma::Workspace<S> workspace;
  Random random(6);
  for (const Index components : {7, 300}) {
    constexpr Index width = 6;
    const gma::CompiledMixture<S> mixture = gma::compile(random_mixture(components, width));
    const Matrix<S> x = random.matrix<S>(components, width);
    const Memory<S> memory{random.matrix<S>(components, width), random.vector<S>(components).cwiseAbs(), 0};
    for (const Normalization normalization : all_normalizations) {
      const Options options = with(normalization, 10);
      const Matrix<S> expected = gma::read(mixture, x, memory, options);
      Matrix<S> queries = x;
      gma::read_into(queries, mixture, queries, memory, options, workspace);
      EXPECT_TRUE(close(queries, expected, forward_tolerance<S>())) << name_of(normalization);
      Memory<S> own = memory;
      if (is_refused([&] { gma::read_into(own.slots, mixture, x, own, options, workspace); })) continue;
      EXPECT_TRUE(close(own.slots, expected, forward_tolerance<S>())) << name_of(normalization) << " into the memory";
    }
  }
}

/// Values are the slots of the memory that is written.
TEST(Aliasing, TheSlotsOfAMemoryAsValuesOfItsOwnWriteAreRightOrRefused) {
  gma::Workspace<S> workspace;
  Random random(7);
  for (const Index components : {7, 300}) {
    constexpr Index width = 6;
    const gma::CompiledMixture<S> mixture = gma::compile(random_mixture(components, width));
    const Matrix<S> x = random.matrix<S>(components, width);
    const Memory<S> memory{random.matrix<S>(components, width), random.vector<S>(components).cwiseAbs(), 0};
    TokenInputs<S> tokens;
    tokens.log_forgetting = Vector<S>::Constant(components, S(-0.1));
    Memory<S> expected = memory, own = memory;
    gma::write(mixture, x, memory.slots, expected, tokens, workspace);
    if (!is_refused([&] { gma::write(mixture, x, own.slots, own, tokens, workspace); })) {
      EXPECT_TRUE(close(own, expected, forward_tolerance<S>())) << "write, K " << components;
    }
    for (const Normalization normalization : all_normalizations) {
      expected = own = memory;
      Matrix<S> y(components, width), out(components, width);
      gma::causal_into(y, mixture, x, x, memory.slots, expected, with(normalization), tokens, workspace);
      const auto call = [&] {
        gma::causal_into(out, mixture, x, x, own.slots, own, with(normalization), tokens, workspace);
      };
      if (is_refused(call)) continue;
      EXPECT_TRUE(close(out, y, forward_tolerance<S>())) << "causal, K " << components;
      EXPECT_TRUE(close(own, expected, forward_tolerance<S>())) << "causal, K " << components;
    }
  }
}

// Heads --------------------------------------------------------------------------------------------------------------

TEST(Aliasing, OutputsOfHeadsOverAnInputAreRightOrRefused) {
  gma::Workspace<S> workspace;
  Random random(8);
  constexpr Index count = 40, width = 5;
  for (const Index key_heads : {1, 2}) {
    const std::vector<Mixture> mixtures(static_cast<std::size_t>(key_heads), random_mixture(4, width));
    for (const Index group : {1, 2}) {
      const Matrix<S> x = random.matrix<S>(count, key_heads * group * width);
      for (const bool is_masked : {false, true}) {
        gma::HeadInputs<S> inputs;
        inputs.sequences = gma::Sequences::packed({0, 1, 15, count});
        if (is_masked) {
          inputs.sequences.keep.assign(count, 1);
          inputs.sequences.keep[3] = inputs.sequences.keep[20] = 0;
        }
        for (const bool is_causal : {false, true}) {
          for (int which = 0; which < 3; ++which) {
            SCOPED_TRACE(testing::Message()
                         << (is_causal ? "causal" : "bidirectional") << ", " << key_heads << " key heads, groups of "
                         << group << ", out is input " << which << (is_masked ? ", masked" : ""));
            const auto call = [&](Matrix<S>& out, Matrix<S>& in) {
              const Matrix<S> all = x;  // inputs but for number `which` lie here
              const auto tensor = [&](int i) {
                HeadTensor<const S> t =
                    gma::split_heads(i == which ? static_cast<const Matrix<S>&>(in) : all, key_heads * group);
                if (i != 0) t.heads = key_heads;
                return t;
              };
              const HeadTensor<S> y = gma::split_heads(out, key_heads * group);
              if (is_causal) {
                gma::causal_into(y, mixtures, tensor(0), tensor(1), tensor(2), Options{}, inputs, workspace);
              } else {
                gma::bidirectional_into(y, mixtures, tensor(0), tensor(1), tensor(2), Options{}, inputs, workspace);
              }
            };
            Matrix<S> own = x, in = x, expected(count, x.cols());
            call(expected, in);
            if (is_refused([&] { call(own, own); })) continue;
            EXPECT_TRUE(close(own, expected, forward_tolerance<S>()));
          }
        }
      }
    }
  }
}

// Gradients ----------------------------------------------------------------------------------------------------------

/// Everything that a backward verb is given, and where its gradients go.
struct Backward {
  Matrix<S> queries, keys, values, d_output;
  Memory<S> initial, d_final;
  Mixture mixture;
};

void expect_same(gma::Gradients<Mixture> actual, gma::Gradients<Mixture> expected) {
  std::vector<Matrix<S>> parts;
  for_each_part(expected, true, [&](const std::string&, const auto& part) { parts.emplace_back(part); });
  std::size_t next = 0;
  for_each_part(actual, true, [&](const std::string& name, const auto& part) {
    EXPECT_TRUE(close(part, parts[next++], float_gradient_tolerance)) << name;
  });
}

/// Every matrix of `gradients` stands for an input once, and the memory and the mixture do.
TEST(Aliasing, GradientsThatLieWhereInputsLieAreRightOrRefused) {
  Random random(9);
  constexpr Index count = 90, width = 5, components = 6;
  const Backward b{random.matrix<S>(count, width),
                   random.matrix<S>(count, width),
                   random.matrix<S>(count, width),
                   random.matrix<S>(count, width),
                   {random.matrix<S>(components, width), random.vector<S>(components).cwiseAbs(), 0},
                   {random.matrix<S>(components, width), random.vector<S>(components), S(0.3)},
                   random_mixture(components, width)};
  const char* inputs[] = {"queries", "keys", "values", "d_output", "initial memory", "final memory", "mixture"};
  const char* outputs[] = {"queries", "keys", "values"};
  TokenInputs<S> tokens = random_tokens<S>(count, false, random);
  for (const bool is_causal : {false, true}) {
    for (const Normalization normalization : all_normalizations) {
      gma::Workspace<S> workspace;
      const Options options = with(normalization, 8);
      const auto call = [&](gma::Gradients<Mixture>& g, const Mixture& mixture, const Matrix<S>& q, const Matrix<S>& k,
                            const Matrix<S>& v, const Matrix<S>& dy, const Memory<S>& initial,
                            const Memory<S>& d_final) {
        if (is_causal) {
          gma::causal_backward_into(g, mixture, q, k, v, dy, initial, d_final, options, tokens, workspace);
        } else {
          gma::bidirectional_backward_into(g, mixture, q, k, v, dy, options, tokens, workspace);
        }
      };
      gma::Gradients<Mixture> expected;
      call(expected, b.mixture, b.queries, b.keys, b.values, b.d_output, b.initial, b.d_final);
      for (int in = 0; in < 7; ++in) {
        for (int out = 0; out < (in < 4 ? 3 : 1); ++out) {
          SCOPED_TRACE(testing::Message()
                       << (is_causal ? "causal" : "bidirectional") << ", " << name_of(normalization) << ": "
                       << inputs[in] << " in the gradient's " << (in < 4 ? outputs[out] : "own place"));
          gma::Gradients<Mixture> g = expected;
          Matrix<S>& place = out == 0 ? g.queries : out == 1 ? g.keys : g.values;
          const Matrix<S>* const x[] = {&b.queries, &b.keys, &b.values, &b.d_output};
          if (in < 4) place = *x[in];
          const auto input = [&](int i) -> const Matrix<S>& { return i == in ? place : *x[i]; };
          if (in == 4) g.memory = b.initial;
          if (in == 5) g.memory = b.d_final;
          if (in == 6) g.mixture = b.mixture;
          const auto aliased = [&] {
            call(g, in == 6 ? g.mixture : b.mixture, input(0), input(1), input(2), input(3),
                 in == 4 ? g.memory : b.initial, in == 5 ? g.memory : b.d_final);
          };
          if (!is_refused(aliased)) expect_same(g, expected);
        }
      }
    }
  }
}

TEST(Aliasing, GradientsOfHeadsThatLieWhereInputsLieAreRightOrRefused) {
  Random random(10);
  constexpr Index count = 30, heads = 2, width = 5;
  const std::vector<Mixture> mixtures(heads, random_mixture(4, width));
  const std::vector<Memory<S>> none;
  const Matrix<S> x[4] = {random.matrix<S>(count, heads * width), random.matrix<S>(count, heads * width),
                          random.matrix<S>(count, heads * width), random.matrix<S>(count, heads * width)};
  for (const bool is_causal : {false, true}) {
    gma::Workspace<S> workspace;
    const auto call = [&](gma::HeadGradients<Mixture>& g, const Matrix<S>& q, const Matrix<S>& k, const Matrix<S>& v,
                          const Matrix<S>& dy) {
      const auto split = [](const Matrix<S>& m) { return gma::split_heads(m, heads); };
      if (is_causal) {
        gma::causal_backward_into(g, mixtures, split(q), split(k), split(v), split(dy), none, none, Options{}, {},
                                  workspace);
      } else {
        gma::bidirectional_backward_into(g, mixtures, split(q), split(k), split(v), split(dy), Options{}, {},
                                         workspace);
      }
    };
    gma::HeadGradients<Mixture> expected;
    call(expected, x[0], x[1], x[2], x[3]);
    for (int in = 0; in < 4; ++in) {
      for (int out = 0; out < 3; ++out) {
        SCOPED_TRACE(testing::Message() << (is_causal ? "causal" : "bidirectional") << ": input " << in
                                        << " in the gradient's matrix " << out);
        gma::HeadGradients<Mixture> g = expected;
        Matrix<S>& place = out == 0 ? g.queries : out == 1 ? g.keys : g.values;
        place = x[in];
        const auto input = [&](int i) -> const Matrix<S>& { return i == in ? place : x[i]; };
        if (is_refused([&] { call(g, input(0), input(1), input(2), input(3)); })) continue;
        EXPECT_TRUE(close(g.queries, expected.queries, float_gradient_tolerance));
        EXPECT_TRUE(close(g.keys, expected.keys, float_gradient_tolerance));
        EXPECT_TRUE(close(g.values, expected.values, float_gradient_tolerance));
      }
    }
  }
}

}  // namespace
}  // namespace gma_test
