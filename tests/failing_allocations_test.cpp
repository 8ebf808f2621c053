// SPDX-License-Identifier: MIT
// Memory that runs out: each allocation of each verb fails once. std::bad_alloc comes out, memories and states are as
// they were or refuse further use, the same objects then serve for the same call with the same bits, and nothing leaks.
#include "failing_allocations.hpp"
// after it
#include <functional>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "gma/layer/layer_backward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "gma/layer/rollback.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using S = float;
using Product = gma::ProductMixture<S>;

/// A call with all that it needs, prepared anew for each failure.
struct Call {
  std::function<void()> run;
  std::function<std::string()> result;
  std::function<std::string()> state = [] { return std::string(); };  // what a failure may not change
};

template <class Derived>
std::string bytes_of(const Eigen::MatrixBase<Derived>& matrix) {
  const Matrix<S> copy = matrix;
  return std::string(reinterpret_cast<const char*>(copy.data()), sizeof(S) * static_cast<std::size_t>(copy.size()));
}
template <class T>
std::string saved(const T& object) {
  std::ostringstream stream;
  gma::save(object, stream);
  return stream.str();
}
template <class T>
std::string saved(const std::vector<T>& objects) {
  std::string all;
  for (const T& object : objects) all += saved(object);
  return all;
}

/// Fails allocation 0, 1, ... of a call, until one comes to its end. Returns how many there were.
template <class Make>
long sweep(const char* name, const Make& make) {
  SCOPED_TRACE(name);
  std::string expected;
  {
    const Call call = make();
    call.run();
    expected = call.result();
  }
  for (long n = 0;; ++n) {
    const long blocks = allocator.blocks;
    bool has_failed = false, has_thrown = false;
    {
      const Call call = make();
      const std::string before = call.state();
      allocator.left = n;
      allocator.has_failed = false;
      allocator.is_armed = true;
      try {
        call.run();
      } catch (const std::bad_alloc&) {
        has_thrown = true;
      } catch (const std::runtime_error&) {  // a stream of the standard library says that it failed, not why
        has_thrown = true;
      }
      allocator.is_armed = false;
      has_failed = allocator.has_failed;
      if (has_thrown) {
        EXPECT_EQ(call.state(), before) << "allocation " << n;
        call.run();
      }
      EXPECT_EQ(call.result(), expected) << "allocation " << n;
    }
    EXPECT_EQ(allocator.blocks, blocks) << "allocation " << n << " leaks";
    if (testing::Test::HasFailure()) return n;
    if (!has_failed) return n;
  }
}

constexpr Index rows = 150;

/// Whether the matrices of Eigen count, or operator new alone.
#ifdef GMA_WRAPS_MALLOC
constexpr bool counts_matrices = true;
#else
constexpr bool counts_matrices = false;
#endif

Options in_segments() {
  Options options;
  options.segment = 60;
  return options;
}

struct Problem {
  Product mixture = gma::random_product_mixture<S>({4, 3}, 6, 1);
  Matrix<S> queries, keys, values, d_output;
  TokenInputs<S> tokens;
  Problem() {
    Random random(5);
    queries = random.matrix<S>(rows, 6);
    keys = random.matrix<S>(rows, 6);
    values = random.matrix<S>(rows, 5);
    d_output = random.matrix<S>(rows, 5);
    tokens = random_tokens<S>(rows, true, random);
    tokens.key_weights(3) = 0;
  }
};

/// What a single-head call works on. `is_warm`: the workspace has buffers of a smaller call, which have to grow.
struct Single {
  const Problem& p;
  Matrix<S> out;
  Memory<S> memory;
  gma::Workspace<S> workspace;
  gma::Gradients<Product> gradients;

  Single(const Problem& problem, bool is_warm) : p(problem), out(Matrix<S>::Zero(rows, 5)) {
    gma::write(p.mixture, p.keys.topRows(9), p.values.topRows(9), memory);
    if (!is_warm) return;
    Matrix<S> y(20, 5);
    Memory<S> other;
    gma::causal_into(y, p.mixture, p.queries.topRows(20), p.keys.topRows(20), p.values.topRows(20), other, Options{},
                     TokenInputs<S>{}, workspace);
    gma::causal_backward_into(gradients, p.mixture, p.queries.topRows(20), p.keys.topRows(20), p.values.topRows(20),
                              p.d_output.topRows(20), other, other, Options{}, TokenInputs<S>{}, workspace);
  }
  std::string all_gradients() const {
    return bytes_of(gradients.queries) + bytes_of(gradients.keys) + bytes_of(gradients.values) +
           bytes_of(gradients.mixture.factors[0].means) + bytes_of(gradients.log_forgetting);
  }
};

TEST(FailingAllocations, SingleHeadVerbs) {
  const Problem p;
  for (const bool is_warm : {false, true}) {
    SCOPED_TRACE(is_warm ? "warm" : "cold");
    const auto of_output = [&](const auto& verb) {
      return [&p, is_warm, verb] {
        const auto s = std::make_shared<Single>(p, is_warm);
        return Call{[s, verb] { verb(*s); }, [s] { return bytes_of(s->out) + saved(s->memory); },
                    [s] { return saved(s->memory); }};
      };
    };
    const auto of_gradients = [&](const auto& verb) {
      return [&p, is_warm, verb] {
        const auto s = std::make_shared<Single>(p, is_warm);
        return Call{[s, verb] { verb(*s); }, [s] { return s->all_gradients(); }, [s] { return saved(s->memory); }};
      };
    };
    const long of_write = sweep("write", of_output([](Single& s) {
                                  gma::write(s.p.mixture, s.p.keys, s.p.values, s.memory, s.p.tokens, s.workspace);
                                }));
    EXPECT_TRUE(of_write > 0 || (is_warm && !counts_matrices));
    sweep("read", of_output([](Single& s) {
            gma::read_into(s.out, s.p.mixture, s.p.queries, s.memory, Options{}, s.workspace);
          }));
    sweep("bidirectional", of_output([](Single& s) {
            gma::bidirectional_into(s.out, s.p.mixture, s.p.queries, s.p.keys, s.p.values, Options{}, s.p.tokens,
                                    s.workspace);
          }));
    sweep("causal", of_output([](Single& s) {
            gma::causal_into(s.out, s.p.mixture, s.p.queries, s.p.keys, s.p.values, s.memory, Options{}, s.p.tokens,
                             s.workspace);
          }));
    sweep("causal in segments", of_output([](Single& s) {
            gma::causal_into(s.out, s.p.mixture, s.p.queries, s.p.keys, s.p.values, s.memory, in_segments(), s.p.tokens,
                             s.workspace);
          }));
    sweep("causal_backward in segments", of_gradients([](Single& s) {
            gma::causal_backward_into(s.gradients, s.p.mixture, s.p.queries, s.p.keys, s.p.values, s.p.d_output,
                                      s.memory, Memory<S>(), in_segments(), s.p.tokens, s.workspace);
          }));
    sweep("causal from an empty memory", of_output([](Single& s) {
            Memory<S> memory;
            gma::causal_into(s.out, s.p.mixture, s.p.queries, s.p.keys, s.p.values, memory, Options{}, s.p.tokens,
                             s.workspace);
          }));
    const auto source_of = [](const Single& s, Index& at) {
      return [&s, &at](gma::TokenBlock<S>& block) {
        if (at == rows) return false;
        block = {s.p.queries.middleRows(at, 50), s.p.keys.middleRows(at, 50), s.p.values.middleRows(at, 50),
                 part_of(s.p.tokens, at, 50)};
        at += 50;
        return true;
      };
    };
    sweep("causal_stream", of_output([&](Single& s) {
            Index at = 0;
            const auto sink = [&](const gma::ConstTile<S>& outputs) { s.out = outputs; };
            EXPECT_EQ(gma::causal_stream(sink, s.p.mixture, source_of(s, at), s.memory, Options{}, s.workspace), rows);
          }));
    sweep("write_stream", of_output([&](Single& s) {
            Index at = 0;
            gma::write_stream(s.p.mixture, source_of(s, at), s.memory, Options{}, s.workspace);
          }));
    sweep("bidirectional_backward", of_gradients([](Single& s) {
            gma::bidirectional_backward_into(s.gradients, s.p.mixture, s.p.queries, s.p.keys, s.p.values, s.p.d_output,
                                             Options{}, s.p.tokens, s.workspace);
          }));
    sweep("causal_backward", of_gradients([](Single& s) {
            gma::causal_backward_into(s.gradients, s.p.mixture, s.p.queries, s.p.keys, s.p.values, s.p.d_output,
                                      s.memory, s.memory, Options{}, s.p.tokens, s.workspace);
          }));
    sweep("write_backward", of_gradients([](Single& s) {
            s.gradients = gma::write_backward(s.p.mixture, s.p.keys, s.p.values, s.memory, s.p.tokens, s.memory);
          }));
    sweep("read_backward", of_gradients([](Single& s) {
            s.gradients = gma::read_backward(s.p.mixture, s.p.queries, s.memory, s.p.d_output);
          }));
    sweep("responsibilities",
          of_output([](Single& s) { s.out = gma::responsibilities(s.p.mixture, s.p.queries).leftCols(5); }));
    sweep("merge", of_output([](Single& s) { s.out.row(0) = gma::merge(s.memory, s.memory).slots.row(0); }));
  }
}

/// Four query heads and two key heads of other numbers of components, three sequences.
struct Heads {
  std::vector<Product> mixtures{gma::random_product_mixture<S>({4, 3}, 6, 1),
                                gma::random_product_mixture<S>({2, 3}, 6, 2)};
  Matrix<S> queries, keys, values, d_output, out;
  gma::HeadInputs<S> inputs;
  std::vector<Memory<S>> memories;
  gma::Workspace<S> workspace;
  gma::HeadGradients<Product> gradients;

  Heads(bool is_warm, bool is_step) {
    Random random(5);
    const Index n = is_step ? 3 : rows;
    queries = random.matrix<S>(n, 24);
    keys = random.matrix<S>(n, 12);
    values = random.matrix<S>(n, 10);
    d_output = random.matrix<S>(n, 20);
    out = Matrix<S>::Zero(n, 20);
    inputs.log_forgetting = -random.matrix<S>(n, 2).cwiseAbs();
    inputs.sequences = is_step ? gma::Sequences::packed({0, 1, 2, 3}) : gma::Sequences::packed({0, 60, 61, rows});
    for (Index i = 0; i < 6; ++i) {
      memories.emplace_back();
      gma::write(mixtures[static_cast<std::size_t>(i % 2)], random.matrix<S>(9, 6), random.matrix<S>(9, 5),
                 memories.back());
    }
    if (!is_warm) return;
    std::vector<Memory<S>> others;
    gma::HeadInputs<S> none;
    gma::causal_into(gma::split_heads(out, 4), mixtures, q(), k(), v(), others, Options{}, none, workspace);
    gma::causal_backward_into(gradients, mixtures, q(), k(), v(), dy(), others, others, Options{}, none, workspace);
    std::vector<Memory<S>> copies = memories;
    if (is_step) causal(copies, Options{});
    out.setZero();
  }
  gma::HeadTensor<const S> q() const { return gma::split_heads(queries, 4); }
  gma::HeadTensor<const S> k() const { return gma::split_heads(keys, 2); }
  gma::HeadTensor<const S> v() const { return gma::split_heads(values, 2); }
  gma::HeadTensor<const S> dy() const { return gma::split_heads(d_output, 4); }
  void causal(std::vector<Memory<S>>& from, const Options& options) {
    gma::causal_into(gma::split_heads(out, 4), mixtures, q(), k(), v(), from, options, inputs, workspace);
  }
};

void sweep_multi_head_verbs(bool is_warm) {
  for (const bool is_step : {false, true}) {
    SCOPED_TRACE(testing::Message() << (is_warm ? "warm" : "cold") << (is_step ? ", steps" : ""));
    const auto make = [&](const auto& verb, const auto& result) {
      return [is_warm, is_step, verb, result] {
        const auto s = std::make_shared<Heads>(is_warm, is_step);
        return Call{[s, verb] { verb(*s); }, [s, result] { return result(*s); }, [s] { return saved(s->memories); }};
      };
    };
    const auto output = [](const Heads& s) { return bytes_of(s.out) + saved(s.memories); };
    const auto gradients = [](const Heads& s) {
      return bytes_of(s.gradients.queries) + bytes_of(s.gradients.keys) + bytes_of(s.gradients.log_forgetting) +
             bytes_of(s.gradients.mixtures[1].factors[1].means) + bytes_of(s.gradients.memories[3].slots);
    };
    sweep("causal", make([](Heads& s) { s.causal(s.memories, Options{}); }, output));
    sweep("causal into its values", make(
                                        [](Heads& s) {
                                          Matrix<S> values = s.values;
                                          gma::causal_into(gma::split_heads(s.out, 4), s.mixtures, s.q(), s.k(),
                                                           gma::split_heads(values, 2), s.memories, Options{}, s.inputs,
                                                           s.workspace);
                                        },
                                        output));
    sweep("bidirectional", make(
                               [](Heads& s) {
                                 gma::bidirectional_into(gma::split_heads(s.out, 4), s.mixtures, s.q(), s.k(), s.v(),
                                                         Options{}, s.inputs, s.workspace);
                               },
                               output));
    sweep("causal_backward", make(
                                 [](Heads& s) {
                                   gma::causal_backward_into(s.gradients, s.mixtures, s.q(), s.k(), s.v(), s.dy(),
                                                             s.memories, s.memories, Options{}, s.inputs, s.workspace);
                                 },
                                 gradients));
    sweep("bidirectional_backward", make(
                                        [](Heads& s) {
                                          gma::bidirectional_backward_into(s.gradients, s.mixtures, s.q(), s.k(), s.v(),
                                                                           s.dy(), Options{}, s.inputs, s.workspace);
                                        },
                                        [](const Heads& s) { return bytes_of(s.gradients.keys); }));
  }
}

TEST(FailingAllocations, MultiHeadVerbs) { sweep_multi_head_verbs(false); }
TEST(FailingAllocations, MultiHeadVerbsInAWarmWorkspace) { sweep_multi_head_verbs(true); }

gma::LayerConfig layer_config() {
  gma::LayerConfig config;
  config.width = 8;
  config.heads = 2;
  config.key_value_heads = 1;
  config.components = {2, 2};
  config.window = 3;
  config.has_output_norm = config.has_output_gate = true;
  return config;
}

struct Layers {
  gma::AttentionLayer<S> layer = gma::random_layer<S>(layer_config(), 2), gradient{layer_config()};
  gma::CompiledLayer<S> compiled = gma::compile(layer);
  gma::LayerCache<S> cache;
  gma::LayerGradientCache<S> scratch;
  std::vector<gma::LayerState<S>> states;
  Matrix<S> x, y, d_x;

  Layers(bool is_warm) : states(2, gma::begin_stream(layer)), x(Random(3).matrix<S>(100, 8)), y(100, 8), d_x(100, 8) {
    gma::LayerCache<S> other;
    gma::forward_into(y, layer, x, states, other, gma::Sequences::packed({0, 50, 100}));
    if (!is_warm) return;
    Matrix<S> z(10, 8);
    gma::forward_into(z, layer, x.topRows(10), cache);
    gma::backward_into(z, gradient, layer, x.topRows(10), cache, scratch);
    gma::set_zero(gradient);
    y.setZero();
  }
  std::string outputs() const { return bytes_of(y) + saved(states); }
};

TEST(FailingAllocations, Layers) {
  for (const bool is_warm : {false, true}) {
    SCOPED_TRACE(is_warm ? "warm" : "cold");
    const auto make = [&](const auto& verb) {
      return [is_warm, verb] {
        const auto s = std::make_shared<Layers>(is_warm);
        return Call{[s, verb] { verb(*s); }, [s] { return s->outputs(); }, [s] { return saved(s->states); }};
      };
    };
    EXPECT_GT(sweep("forward", make([](Layers& s) {
                      gma::forward_into(s.y, s.compiled, s.x, s.states, s.cache, gma::Sequences::packed({0, 40, 100}));
                    })),
              0);
    sweep("forward of an expression", make([](Layers& s) {
            gma::forward_into(s.y, s.layer, S(2) * s.x, s.states, s.cache, gma::Sequences::packed({0, 40, 100}));
          }));
    sweep("step", make([](Layers& s) { gma::step_into(s.y.row(0), s.compiled, s.x.row(0), s.states[0], s.cache); }));
    sweep("step, not compiled",
          make([](Layers& s) { gma::step_into(s.y.row(0), s.layer, s.x.row(0), s.states[0], s.cache); }));
    sweep("steps of two streams", make([](Layers& s) {
            gma::forward_into(s.y.topRows(2), s.compiled, s.x.topRows(2), s.states, s.cache,
                              gma::Sequences::packed({0, 1, 2}));
          }));
    sweep("backward", [is_warm] {
      const auto s = std::make_shared<Layers>(is_warm);
      return Call{[s] {
                    gma::set_zero(s->gradient);
                    gma::forward_into(s->y, s->layer, s->x, s->cache);
                    gma::backward_into(s->d_x, s->gradient, s->layer, s->x, s->cache, s->scratch);
                  },
                  [s] { return bytes_of(s->d_x) + bytes_of(s->gradient.output_weight); }};
    });
    sweep("backward through states", [is_warm] {
      const auto s = std::make_shared<Layers>(is_warm);
      s->states.pop_back();
      const auto d_states = std::make_shared<std::vector<gma::LayerState<S>>>(1, gma::begin_stream(s->layer));
      const auto initial = std::make_shared<std::vector<gma::LayerState<S>>>(s->states);
      const auto gradients = [d_states] {
        const gma::LayerState<S>& state = d_states->front();
        return bytes_of(state.history) + bytes_of(state.window_values) + bytes_of(state.memories[0].slots);
      };
      gma::forward_into(s->y, s->layer, s->x, s->states, s->cache);
      return Call{[s, d_states, initial] {
                    gma::set_zero(s->gradient);
                    gma::backward_into(s->d_x, s->gradient, s->layer, s->x, s->cache, s->scratch, {}, initial.get(),
                                       d_states.get(), d_states.get());
                  },
                  [s, gradients] { return bytes_of(s->d_x) + gradients(); }, gradients};
    });
  }
}

TEST(FailingAllocations, AStepThatAllocatesAfterAllIsRefusedOrAsItWas) {
  // From the second step on nothing is allocated. A cache that forgot its scratch shows what would happen if it were.
  for (long n = 0; n < 60; ++n) {
    Layers s(false);
    gma::step_into(s.y.row(0), s.compiled, s.x.row(0), s.states[0], s.cache);
    s.cache.workspace = gma::Workspace<S>();
    const std::string before = saved(s.states[0]);
    gma::LayerState<S> copy = s.states[0];
    allocator.left = n;
    allocator.is_armed = true;
    bool has_thrown = false;
    try {
      gma::step_into(s.y.row(0), s.compiled, s.x.row(0), s.states[0], s.cache);
    } catch (const std::bad_alloc&) {
      has_thrown = true;
    }
    allocator.is_armed = false;
    if (!has_thrown) break;
    if (!s.states[0].is_torn) {
      EXPECT_EQ(saved(s.states[0]), before) << n;
      continue;
    }
    const auto expect_refused = [&](const auto& use) { expect_error(use, {"state", "unfinished", "reset()"}); };
    expect_refused([&] { gma::step_into(s.y.row(0), s.compiled, s.x.row(0), s.states[0], s.cache); });
    expect_refused([&] { saved(s.states[0]); });
    gma::reset(s.states[0]);
    gma::LayerState<S> fresh = gma::begin_stream(s.layer);
    EXPECT_EQ(saved(s.states[0]), saved(fresh));
    s.states[0] = copy;
    EXPECT_EQ(saved(s.states[0]), before);
  }
}

TEST(FailingAllocations, StatesAndTheirBytes) {
  const auto make = [](const auto& verb) {
    return [verb] {
      const auto s = std::make_shared<Layers>(false);
      const auto bytes = std::make_shared<std::string>(saved(s->states[1]));
      return Call{[s, bytes, verb] { verb(*s, *bytes); }, [s, bytes] { return saved(s->states) + *bytes; },
                  [s] { return saved(s->states); }};
    };
  };
  sweep("load", make([](Layers& s, std::string& bytes) {
          std::istringstream stream(bytes);
          gma::load(s.states[0], stream);
        }));
  sweep("save", make([](Layers& s, std::string& bytes) { bytes = saved(s.states[0]); }));
  sweep("begin_stream", make([](Layers& s, std::string&) { s.states[0] = gma::begin_stream(s.layer); }));
  sweep("compile", make([](Layers& s, std::string&) { s.compiled = gma::compile(s.layer); }));
  sweep("random_layer", make([](Layers& s, std::string&) { s.layer = gma::random_layer<S>(layer_config(), 7); }));
  sweep("fork", make([](Layers& s, std::string&) { s.states[0] = s.states[1]; }));
  sweep("fork over a state of another layer", make([](Layers& s, std::string&) {
          gma::LayerConfig config = layer_config();
          config.window = 5;
          config.components = {2, 3};
          gma::LayerState<S> other = gma::begin_stream(gma::AttentionLayer<S>(config));
          other = s.states[1];
          gma::Rollback<gma::LayerState<S>> rollback(1);
          rollback.record(gma::begin_stream(gma::AttentionLayer<S>(config)));
          rollback.record(other);
          rollback.rewind(s.states[0], 1);
        }));
  sweep("load memory", make([](Layers& s, std::string&) {
          std::istringstream stream(saved(s.states[1].memories[0]));
          gma::load(s.states[0].memories[0], stream);
        }));
}

}  // namespace
}  // namespace gma_test
