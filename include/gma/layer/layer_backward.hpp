// SPDX-License-Identifier: MIT
// The layer backward: gradients of its input and of every parameter, from what the forward pass left in the cache.
#pragma once

#include <utility>
#include <vector>

#include "gma/heads/heads_backward.hpp"
#include "gma/layer/layer_forward.hpp"
#include "gma/mixture/usage.hpp"

namespace gma {

/// Scratch of backward passes, to be reused.
template <class S, class Covariance = Diagonal>
struct LayerGradientCache {
  HeadGradients<typename detail::LayerRouting<S, Covariance>::Type> heads;
  Matrix<S> d_output, d_mixed, d_projected, d_input;
  Matrix<S> taps, d_taps, normed;
  Matrix<S> d_window, rotations;  ///< of a layer with a window
  Workspace<S> workspace;
  double usage_penalty = 0;  ///< the penalty's value, times its factor, if options asked for it
};

/// After forward_into(out, layer, x, cache, ...): d_x is assigned (zero for rows of no sequence), the gradient of every
/// parameter is added to `gradient`, a layer of the same config. `initial` are the states from which that pass went on,
/// as they were before it, or null where it had none or all were beginnings; they get no gradient. Cost about 2.5
/// forward passes. Throws std::invalid_argument on shapes that do not fit; where the gradient's config is not the
/// layer's; where the cache is not from a forward pass of a layer of that config and of that many rows that came to its
/// end; and where `initial` is missing or stands at other positions than that pass began. On any other exception
/// `gradient` holds part of the sum.
template <class DX, class S, class Covariance, class DY>
void backward_into(const Eigen::MatrixBase<DX>& d_x, AttentionLayer<S, Covariance>& gradient,
                   const AttentionLayer<S, Covariance>& layer, const Eigen::MatrixBase<DY>& d_output,
                   LayerCache<S>& cache, LayerGradientCache<S, Covariance>& scratch, const LayerOptions& options = {},
                   const std::vector<LayerState<S>>* initial = nullptr);

/// Forward and backward in one call.
template <class S, class Covariance>
struct LayerGradients {
  Matrix<S> x;                          ///< N x D
  AttentionLayer<S, Covariance> layer;  ///< the gradient of the parameters
};
template <class S, class Covariance, class X, class DY>
LayerGradients<S, Covariance> backward(const AttentionLayer<S, Covariance>& layer, const Eigen::MatrixBase<X>& x,
                                       const Eigen::MatrixBase<DY>& d_output, const Sequences& sequences = {},
                                       const LayerOptions& options = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// c += a^T b for many rows: blocks of c side by side, the rows summed in two levels.
template <class S>
void add_product_over_rows(const Executor* executor, const ConstTile<S>& a, const Matrix<S>& b, Matrix<S>& c) {
  constexpr Index depth = 256;
  for_blocks(executor, a.cols(), channels_of_task, [&](Index begin, Index count) {
    for (Index row = 0; row < a.rows(); row += depth) {
      const Index now = (std::min)(depth, a.rows() - row);
      const ConstTile<S> part(a.data() + row * a.outerStride() + begin, now, count,
                              Eigen::OuterStride<>(a.outerStride()));
      add_transposed_product(part, rows(as_tile(b), row, now), rows(c, begin, count));
    }
  });
}

/// With n = z i, i the inverse root mean square: dz = i (dn - n <n, dn> / width), in place of dn.
template <class S>
void scale_heads_backward(const S* row, Index heads, Index width, const S* inverse, S* d_row) {
  for (Index h = 0; h < heads; ++h) {
    const Eigen::Map<const RowVector<S>> n(row + h * width, width);
    Eigen::Map<RowVector<S>> d(d_row + h * width, width);
    const S inner = n.dot(d) / S(static_cast<double>(width));
    d = inverse[h] * (d - inner * n);
  }
}

template <class S, class Covariance>
struct LayerBackward {
  const AttentionLayer<S, Covariance>& layer;
  LayerShape shape;
  LayerCache<S>& cache;
  LayerGradientCache<S, Covariance>& scratch;
  AttentionLayer<S, Covariance>& gradient;
  const std::vector<LayerState<S>>* initial;
  const LayerOptions& options;

  void run() {
    const Executor* executor = options.executor;
    const bool is_finished = layer.config.has_output_norm || layer.config.has_output_gate;
    resize(scratch.d_projected, cache.projected.rows(), cache.projected.cols());
    add_product_over_rows(executor, read_only(as_tile(scratch.d_output)), is_finished ? cache.finished : cache.mixed,
                          gradient.output_weight);
    product_of_rows(executor, scratch.d_output, layer.output_weight, scratch.d_mixed);
    if (is_finished) finish_backward();
    if (shape.window > 0) {
      window().mix_backward(cache.mixed, scratch.d_mixed, scratch.d_window, scratch.d_projected, gradient.window_bias);
    }
    attend_backward();
    scratch.usage_penalty = 0;
    if (options.usage_penalty != 0) add_usage_penalty();
    if (shape.window > 0) {
      window().attend_backward([&](Index i) { return initial == nullptr ? nullptr : initial->data() + i; },
                               scratch.d_window, scratch.heads.queries, scratch.heads.keys, scratch.heads.values);
    }
    scale_backward();
    part_backward(0, scratch.heads.queries, layer.query_filter, gradient.query_filter);
    part_backward(shape.queries, scratch.heads.keys, layer.key_filter, gradient.key_filter);
    part_backward(shape.queries + shape.keys, scratch.heads.values, layer.value_filter, gradient.value_filter);
    if (shape.forgetting > 0) forget_backward();
    project_backward();
  }

  /// z = sigmoid, u = gain o n: the gate's logits get dy o u z (1 - z), the norm gets dy o z.
  void finish_backward() {
    const auto [gate, columns] = shape.columns(Projected::output_gate);
    const bool has_norm = layer.config.has_output_norm, has_gate = layer.config.has_output_gate;
    if (has_norm) assign(scratch.normed, cache.mixed);
    for (Index t = 0; t < cache.mixed.rows(); ++t) {
      auto d = scratch.d_mixed.row(t);
      if (has_gate) {
        const auto z = (S(1) + (-cache.projected.row(t).segment(gate, columns).array()).exp()).inverse();
        scratch.d_projected.row(t).segment(gate, columns) = d.array() * cache.finished.row(t).array() * (S(1) - z);
        d.array() *= z;
      }
      if (!has_norm) continue;
      auto normed = scratch.normed.row(t);
      for (Index h = 0; h < shape.query_heads; ++h) {
        normed.segment(h * shape.value_width, shape.value_width) *= cache.mixed_inverse_rms(t, h);
      }
      gradient.norm_gain += d.cwiseProduct(normed).transpose();
      d.array() *= layer.norm_gain.transpose().array();
      scale_heads_backward(normed.data(), shape.query_heads, shape.value_width, &cache.mixed_inverse_rms(t, 0),
                           d.data());
    }
  }

  LayerWindow<S> window() const {
    set_rotations(scratch.rotations, layer.config.window, shape.head_width);
    return {shape,
            layer.config.window,
            scratch.rotations,
            cache.inputs.sequences.offsets,
            cache.queries,
            cache.keys,
            cache.values,
            cache.window,
            options.executor,
            scratch.workspace};
  }

  void attend_backward() {
    Options each;
    each.normalization = layer.config.normalization;
    each.executor = options.executor;
    const HeadTensor<S> q = split_heads(cache.queries, shape.query_heads), k = split_heads(cache.keys, shape.key_heads),
                        v = split_heads(cache.values, shape.key_heads),
                        dy = split_heads(scratch.d_mixed, shape.query_heads);
    if (layer.config.is_causal) {
      const std::vector<Memory<S>> none;
      std::vector<Memory<S>> before;
      for (std::size_t i = 0; initial != nullptr && i < initial->size(); ++i) {
        before.insert(before.end(), (*initial)[i].memories.begin(), (*initial)[i].memories.end());
      }
      causal_backward_into(scratch.heads, layer.mixtures, q, k, v, dy, before, none, each, cache.inputs,
                           scratch.workspace);
    } else {
      bidirectional_backward_into(scratch.heads, layer.mixtures, q, k, v, dy, each, cache.inputs, scratch.workspace);
    }
    for (std::size_t h = 0; h < layer.mixtures.size(); ++h) {
      add_parameters(gradient.mixtures[h], scratch.heads.mixtures[h]);
    }
  }

  void add_usage_penalty() {
    using Routing = typename LayerRouting<S, Covariance>::Type;
    if constexpr (is_feature_map<Routing>) {
      invalid_argument("backward", "options.usage_penalty is set, expected 0 where there is no mixture");
    } else {
      for (Index h = 0; h < shape.key_heads; ++h) {
        const Index begin = h * shape.head_width;
        const UsagePenaltyGradients<Routing> penalty =
            usage_penalty_backward(layer.mixtures[static_cast<std::size_t>(h)],
                                   cache.keys.middleCols(begin, shape.head_width), S(options.usage_penalty));
        scratch.heads.keys.middleCols(begin, shape.head_width) += penalty.tokens;
        add_parameters(gradient.mixtures[static_cast<std::size_t>(h)], penalty.mixture);
        scratch.usage_penalty += options.usage_penalty * static_cast<double>(penalty.value);
      }
    }
  }

  void scale_backward() {
    for_blocks(options.executor, cache.input.rows(), rows_of_task, [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        scale_heads_backward(cache.queries.row(t).data(), shape.query_heads, shape.head_width, &cache.inverse_rms(t, 0),
                             scratch.heads.queries.row(t).data());
        scale_heads_backward(cache.keys.row(t).data(), shape.key_heads, shape.head_width,
                             &cache.inverse_rms(t, shape.query_heads), scratch.heads.keys.row(t).data());
      }
    });
  }

  /// Columns [begin, ...) of the projection get the gradient of what the convolution made of them.
  void part_backward(Index begin, const Matrix<S>& dy, const Matrix<S>& filter, Matrix<S>& d_filter) {
    if (layer.config.convolution == 1) {
      columns(scratch.d_projected, begin, dy.cols()) = dy;
      return;
    }
    Matrix<S>&taps = scratch.taps, &d_taps = scratch.d_taps;
    resize(taps, filter.cols(), shape.channels());
    resize(d_taps, filter.cols(), shape.channels());
    taps.middleCols(begin, dy.cols()) = filter.rowwise().reverse().transpose();
    d_taps.middleCols(begin, dy.cols()).setConstant(S(0));
    const std::vector<std::int64_t>& offsets = cache.inputs.sequences.offsets;
    for_blocks(options.executor, dy.cols(), channels_of_task, [&](Index first, Index channels) {
      const ConstTile<S> x = read_only(columns(cache.projected, begin + first, channels));
      for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
        const Index row = static_cast<Index>(offsets[i]), count = static_cast<Index>(offsets[i + 1]) - row;
        const ConstTile<S> nothing(nullptr, 0, channels, Eigen::OuterStride<>(channels));
        const ConstTile<S> past =
            initial == nullptr ? nothing : columns((*initial)[i].history, begin + first, channels);
        short_convolution_backward(rows(x, row, count), columns(std::as_const(taps), begin + first, channels), past,
                                   rows(columns(dy, first, channels), row, count),
                                   rows(columns(scratch.d_projected, begin + first, channels), row, count),
                                   columns(d_taps, begin + first, channels));
      }
    });
    d_filter += d_taps.middleCols(begin, dy.cols()).transpose().rowwise().reverse();
  }

  /// dz = -dg sigmoid(z) exp(a), da = sum_t dg g, with z = x Wf^T + bf.
  void forget_backward() {
    const Matrix<S>&dg = scratch.heads.log_forgetting, &g = cache.inputs.log_forgetting;
    Tile<S> dz = columns(scratch.d_projected, shape.channels(), shape.forgetting);
    if (dg.rows() == 0) return;
    const ConstTile<S> z = columns(std::as_const(cache.projected), shape.channels(), shape.forgetting);
    for (Index t = 0; t < dg.rows(); ++t) {
      dz.row(t) = -(dg.row(t).array() * layer.forget_rate.transpose().array().exp() /
                    (S(1) + (-(z.row(t) + layer.forget_bias.transpose()).array()).exp()))
                       .matrix();
    }
    gradient.forget_rate += dg.cwiseProduct(g).colwise().sum().transpose();
    gradient.forget_bias += dz.colwise().sum().transpose();
  }

  void project_backward() {
    const Executor* executor = options.executor;
    set_constant(scratch.d_input, cache.input.rows(), shape.width, S(0));
    for_each_projection(shape, [&](const auto& row) {
      const ColumnRange range = shape.columns(row.columns);
      const ConstTile<S> d = read_only(columns(scratch.d_projected, range.begin, range.count));
      add_product_over_rows(executor, d, cache.input, row.member(gradient));
      for_blocks(executor, d.rows(), rows_of_task, [&](Index begin, Index count) {
        add_product(rows(d, begin, count), row.member(layer), rows(scratch.d_input, begin, count));
      });
    });
  }
};

/// Throws unless the last forward pass of a cache is one of this layer that came to its end.
template <class L>
void check_pass(const char* function, const L& layer, const LayerPass& pass) {
  if (!pass.is_complete) {
    invalid_argument(function, "cache is not from a forward pass that came to its end, expected one of this layer");
  }
  if (!are_alike(pass.config, layer.config)) {
    invalid_argument(function, "cache is from a forward pass of a layer of another config, expected one of this layer");
  }
}

template <class L, class S>
void check_initial(const char* function, const L& layer, const LayerPass& pass, Index sequences,
                   const std::vector<LayerState<S>>* initial) {
  if (initial == nullptr) {
    if (!pass.goes_on) return;
    invalid_argument(function,
                     "initial is null, expected the states from which the forward pass went on, as they were "
                     "before it");
  }
  check_size(function, "initial", "entries", static_cast<Index>(initial->size()), sequences, "one per sequence");
  for (std::size_t i = 0; i < initial->size(); ++i) {
    check_state(function, layer, (*initial)[i]);
    const Index position = pass.positions.empty() ? 0 : pass.positions[i];
    if ((*initial)[i].position == position) continue;
    invalid_argument(function, "initial is at position ", (*initial)[i].position, " at ", i, ", expected ", position,
                     ", where the forward pass began");
  }
}

}  // namespace detail

template <class DX, class S, class Covariance, class DY>
void backward_into(const Eigen::MatrixBase<DX>& d_x, AttentionLayer<S, Covariance>& gradient,
                   const AttentionLayer<S, Covariance>& layer, const Eigen::MatrixBase<DY>& d_output,
                   LayerCache<S>& cache, LayerGradientCache<S, Covariance>& scratch, const LayerOptions& options,
                   const std::vector<LayerState<S>>* initial) {
  constexpr const char* function = "backward";
  detail::check_layer(function, layer);
  detail::check_layer("backward (gradient)", gradient);
  if (!detail::are_alike(gradient.config, layer.config)) {
    detail::invalid_argument(function, "gradient has another config than layer, expected one made from layer.config");
  }
  const detail::LayerShape shape(layer.config);
  detail::check_shape(function, "d_output", d_output.rows(), d_output.cols(), cache.rows, shape.width,
                      "rows of the forward pass x the layer's width");
  detail::check_shape(function, "d_x", d_x.rows(), d_x.cols(), cache.rows, shape.width, "as d_output");
  detail::check_pass(function, layer, cache.pass);
  detail::check_initial(function, layer, cache.pass, cache.placement.count(), initial);
  detail::gather_rows(d_output.derived(), cache.placement, scratch.d_output, scratch.workspace);
  detail::LayerBackward<S, Covariance> pass{layer, shape, cache, scratch, gradient, initial, options};
  pass.run();
  detail::scatter_rows(scratch.d_input, cache.placement, detail::writable(d_x).derived());
}

template <class S, class Covariance, class X, class DY>
LayerGradients<S, Covariance> backward(const AttentionLayer<S, Covariance>& layer, const Eigen::MatrixBase<X>& x,
                                       const Eigen::MatrixBase<DY>& d_output, const Sequences& sequences,
                                       const LayerOptions& options) {
  LayerCache<S> cache;
  LayerGradientCache<S, Covariance> scratch;
  LayerGradients<S, Covariance> result{Matrix<S>(x.rows(), x.cols()), AttentionLayer<S, Covariance>(layer.config)};
  forward_into(result.x, layer, x, cache, sequences, options);
  backward_into(result.x, result.layer, layer, d_output, cache, scratch, options);
  return result;
}

}  // namespace gma
