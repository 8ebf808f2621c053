// SPDX-License-Identifier: MIT
//
// The configuration: the model's shape and its training.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "types.hpp"

namespace transformer {

enum class MixerKind { gma, gma_plain, linear, performer, mamba, delta, sdpa, window };
enum class MlpKind { gated, plain };

constexpr MixerKind all_mixers[] = {MixerKind::gma,   MixerKind::gma_plain, MixerKind::linear, MixerKind::performer,
                                    MixerKind::mamba, MixerKind::delta,     MixerKind::sdpa,   MixerKind::window};

inline const char* name_of(MixerKind kind) {
  constexpr const char* names[] = {"gma", "gma-plain", "linear", "performer", "mamba", "delta", "sdpa", "window"};
  return names[static_cast<int>(kind)];
}

struct ModelConfig {
  MixerKind mixer = MixerKind::gma;
  MlpKind mlp = MlpKind::gated;
  bool is_causal = true;   // else every token sees later tokens too, and there is no streaming
  Index vocabulary = 256;  // of tokens: 256 bytes, or the pieces of a subword vocabulary
  Index layers = 2;
  Index width = 96;
  Index heads = 2;
  bool has_positions = false;              // sinusoids of the position are added to the tokens, with learned gains
  Index mlp_width = 256;                   // 0: blocks have no MLP
  std::vector<Index> components = {8, 8};  // of the product mixture's factors; performer: their product features
  Index plain_components = 64;             // of the one mixture of gma-plain
  Index convolution = 0;                   // taps of the short convolution, 1 for none; 0: see taps_of()
  bool has_forgetting = true;              // gma, linear, performer
  Index slot_forgetting = 0;               // gma: rank of the forgetting of every slot; 0: none
  Index gma_window = 0;                    // gma: tokens of the exact window; 0: none
  bool has_output_norm = true;             // gma: unit root mean square of every head's output, with a gain
  bool has_output_gate = true;             // gma: the outputs times silu(x W^T)
  bool has_unit_queries = false;           // sdpa, window: queries and keys of unit root mean square, a learned scale
  Index window = 64;                       // tokens that the softmax of window sees
  Index cache = 0;                         // sdpa: the last tokens whose keys a stream keeps; 0: all
  Index state = 64;                        // mamba: numbers that it keeps per channel
  Index mamba_head = 32;                   // mamba: channels per head, of twice as many channels as the model's width
  double forgetting_fastest = 1.0 / 16;    // initial rates of forgetting of the heads, fastest and slowest
  double forgetting_slowest = 1.0 / 128;
};

// The taps if they are not given: none for gma-plain and sdpa, four for the others.
inline Index taps_of(const ModelConfig& c) {
  if (c.mixer == MixerKind::gma_plain) return 1;
  if (c.convolution > 0) return c.convolution;
  return c.mixer == MixerKind::sdpa ? 1 : 4;
}

struct TrainConfig {
  double seconds = 120;  // of training without evaluation; ignored if steps are given
  std::int64_t steps = 0;
  Index batch = 4;      // sequences per step
  Index context = 256;  // tokens per sequence
  Index shards = 4;     // parts of a step that threads work on; fixes the order of sums for any threads
  double learning_rate = 4e-3;
  double final_learning_rate = 0.05;  // as a fraction of learning_rate
  std::int64_t warmup_steps = 100;
  double mixture_learning_rate = 5;  // a factor on learning_rate
  double weight_decay = 0.01;
  double beta1 = 0.9, beta2 = 0.95;
  double clip = 1;
  std::uint64_t seed = 1;
};

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

inline void validate(const ModelConfig& c) {
  require(c.vocabulary >= 2 && c.vocabulary <= 65536, "vocabulary must be between 2 and 65536");
  require(c.layers >= 1, "layers must be at least 1");
  require(c.heads >= 1 && c.width >= c.heads && c.width % c.heads == 0,
          "width (" + std::to_string(c.width) + ") must be a multiple of heads (" + std::to_string(c.heads) + ")");
  require(c.mlp_width >= 0, "mlp-width must be 0 (no MLP) or more");
  require(
      (c.mixer != MixerKind::sdpa && c.mixer != MixerKind::window) || c.width / c.heads % 2 == 0,
      "softmax needs an even head width, for rotary positions; width / heads is " + std::to_string(c.width / c.heads));
  require(c.convolution >= 0, "convolution must be 0 (the mixer's default), 1 (none) or more");
  require(c.window >= 1, "window must be at least 1");
  require(c.slot_forgetting >= 0, "slot-forgetting must be 0 (none) or more");
  require(c.gma_window >= 0, "gma-window must be 0 (none) or more");
  require(c.gma_window == 0 || c.width / c.heads % 2 == 0, "gma-window needs an even head width");
  require(c.state >= 1, "state must be at least 1");
  require(c.mamba_head >= 1, "mamba-head must be at least 1");
  require(c.mixer != MixerKind::mamba || 2 * c.width % c.mamba_head == 0,
          "twice the width (" + std::to_string(2 * c.width) + ") must be a multiple of mamba-head (" +
              std::to_string(c.mamba_head) + ")");
  require(c.cache >= 0, "cache must be 0 (all) or more");
  require(c.plain_components >= 1, "plain-components must be at least 1");
  require(!c.components.empty(), "components must name at least one factor, for example 8 8");
  for (const Index k : c.components) require(k >= 1, "every factor of components must be at least 1");
  const Index factors = Index(c.components.size());
  require(c.mixer != MixerKind::gma || c.width / c.heads % factors == 0,
          "the head width (" + std::to_string(c.width / c.heads) + ") must be a multiple of the number of factors (" +
              std::to_string(factors) + ")");
  require(c.forgetting_fastest > 0 && c.forgetting_slowest > 0, "rates of forgetting must be positive");
}

inline void validate(const TrainConfig& c) {
  require(c.steps > 0 || c.seconds > 0, "either steps or seconds must be positive");
  require(c.batch >= 1, "batch must be at least 1");
  require(c.shards >= 1, "shards must be at least 1");
  require(c.context >= 2, "context must be at least 2 tokens");
  require(c.learning_rate > 0, "learning-rate must be positive");
  require(c.clip > 0, "clip must be positive");
  require(c.warmup_steps >= 0, "warmup-steps must not be negative");
}

// The value of one member of ModelConfig, at least 1, with which a model comes closest to a number of parameters. It
// makes variants equal. parameters_of(config) is linear in the member.
template <class Count>
Index matching(ModelConfig config, Index ModelConfig::*member, Index target, const Count& parameters_of) {
  config.*member = 1;
  const Index one = parameters_of(config);
  config.*member = 2;
  const Index each = parameters_of(config) - one;
  return (std::max)(Index(1), 1 + (target - one + each / 2) / each);
}

template <class Count>
Index matching_mlp_width(const ModelConfig& config, Index target, const Count& parameters_of) {
  return matching(config, &ModelConfig::mlp_width, target, parameters_of);
}

// For models without an MLP.
template <class Count>
Index matching_layers(const ModelConfig& config, Index target, const Count& parameters_of) {
  return matching(config, &ModelConfig::layers, target, parameters_of);
}

}  // namespace transformer
