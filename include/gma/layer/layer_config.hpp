// SPDX-License-Identifier: MIT
// The choices that make up an attention layer. layer_parameters.hpp has the widths and parameters that follow.
#pragma once

#include <vector>

#include "gma/core/types.hpp"

namespace gma {

/// What an output gate makes of its logits z: sigmoid(z), or silu(z) = z sigmoid(z).
enum class GateActivation { sigmoid, silu };

/// The default is the recommended causal layer: product mixtures of diagonal Gaussians, slot normalisation, forgetting
/// from the token, a short convolution, output norm and silu gate. Zeros stand for what follows from the rest.
struct LayerConfig {
  Index width = 0;            ///< D: columns of the layer's input and output
  Index heads = 1;            ///< Hq: query heads
  Index key_value_heads = 0;  ///< H: heads of keys, values, mixtures and memories, which divides heads; 0: as many
  Index head_width = 0;       ///< d: routing width of a head; 0: width / heads
  Index value_width = 0;      ///< e: value width of a head; 0: head_width

  /// Slots of each factor of a head's product mixture, which share d equally. One number: an ordinary mixture.
  std::vector<Index> components = {8, 8};

  bool is_causal = true;                              ///< else bidirectional
  Normalization normalization = Normalization::slot;  ///< how a read divides by the mass
  Index convolution = 4;           ///< taps of the short causal convolution on queries, keys and values; 1: none
  bool has_forgetting = true;      ///< a gate per key head; causal layers only
  Index slot_forgetting_rank = 0;  ///< R: numbers of a token and key head that make every slot forget; 0: none
  Index window = 0;             ///< tokens, the present one too, that heads also attend to exactly; causal layers only
  bool has_output_norm = true;  ///< unit root mean square of every head's output, with a gain
  bool has_output_gate = true;  ///< the outputs times an activation of x W^T
  GateActivation gate_activation = GateActivation::silu;  ///< of the output gate

  /// What random_layer() starts the gates from: time constants in tokens, spread over the heads.
  double shortest_time = 16, longest_time = 512;
};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// f(name, pointer to the member) for every member of a config, in the order of files. A member that the earliest files
/// lack has a third argument: its value where a file does not name it.
template <class F>
void for_each_member(const F& f) {
  using C = LayerConfig;
  f("width", &C::width);
  f("heads", &C::heads);
  f("key_value_heads", &C::key_value_heads);
  f("head_width", &C::head_width);
  f("value_width", &C::value_width);
  f("components", &C::components);
  f("is_causal", &C::is_causal);
  f("normalization", &C::normalization);
  f("convolution", &C::convolution);
  f("has_forgetting", &C::has_forgetting);
  f("slot_forgetting_rank", &C::slot_forgetting_rank, Index(0));
  f("window", &C::window, Index(0));
  f("has_output_norm", &C::has_output_norm);
  f("has_output_gate", &C::has_output_gate);
  f("gate_activation", &C::gate_activation, GateActivation::sigmoid);
  f("shortest_time", &C::shortest_time);
  f("longest_time", &C::longest_time);
}

}  // namespace detail
}  // namespace gma
