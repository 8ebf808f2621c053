// SPDX-License-Identifier: MIT
//
// The results of inspecting a trained model's routing: plain numbers and strings, for tables and for the page. Layers,
// heads and components count from 0 here and from 1 in tables and on the page.
#pragma once

#include <string>
#include <vector>

#include "component_statistics.hpp"
#include "language_model/checkpoint.hpp"
#include "language_model/text.hpp"

namespace inspect_routing {

// Keys decide where a token is written, queries decide what is read.
enum class Side { keys, queries };
inline constexpr Side sides[] = {Side::keys, Side::queries};
inline const char* name_of(Side side) { return side == Side::keys ? "keys" : "queries"; }

struct ContextToken {
  std::string before, token, after;  // bytes of the text
  double responsibility = 0;
};
struct CommonToken {
  std::string token;
  Index count = 0;
};

// Of the keys or the queries of one head.
struct SideReport {
  Index tokens = 0;
  Vector<double> usage;           // K, sums to 1
  double usage_entropy = 0;       // nats
  Index dead = 0;                 // components used less than a tenth of 1 / K
  double token_entropy = 0;       // mean over tokens, nats
  double token_components = 0;    // mean over tokens of exp(entropy)
  Matrix<double> forms;           // K x surface_forms: tokens by strongest component and surface form
  MutualInformation information;  // between the two
  std::vector<std::vector<ContextToken>> strongest;  // K
  std::vector<std::vector<CommonToken>> common;      // K
};

// How long a head remembers, in tokens. The time of a gate is the one in which the memory would fade to 1 / e if every
// gate were like it.
struct ForgettingReport {
  double held = 0;                       // mean over tokens of what the memory holds: each token counts as what is left
  double mean_time = 0;                  // 1 / mean rate; a few gates that forget everything make it short
  double low = 0, median = 0, high = 0;  // times of the gates: 10, 50 and 90 per cent of them are shorter
  std::vector<double> form_times;        // 1 / mean rate at tokens of each surface form; 0: no such token
};

// The tokens of the window, and those before it.
struct WindowReport {
  Matrix<double> queries, keys;  // W x K responsibilities
  Matrix<double> affinity;       // W x W: what the query of a row puts on the value of a column; causal
  Vector<double> before;         // W: what it puts on all tokens before the window; with its row of affinity 1
  Vector<double> kept;           // W: the part of the memory that is kept when the token is written; 1: no forgetting
};

struct HeadReport {
  Index layer = 0, head = 0;
  std::vector<double> temperatures;  // learned, of each factor
  bool has_forgetting = false;
  ForgettingReport forgetting;
  SideReport keys, queries;
  WindowReport window;

  const SideReport& side(Side s) const { return s == Side::keys ? keys : queries; }
};

struct Inspection {
  transformer::ModelConfig model;
  std::string checkpoint, text;   // names
  bool is_bytes = true;           // tokens are bytes, else subword pieces
  std::int64_t steps = 0;         // of training
  Index context = 0;              // tokens that are read at a time, from an empty memory, as in training
  Index tokens = 0;               // read for the statistics
  std::vector<Index> factors;     // components of each; their product is K
  Index components = 0;           // K
  std::vector<HeadReport> heads;  // layer by layer
  Index window_position = 0;      // in tokens of the held-out part
  std::vector<std::string> window_tokens;
};

struct InspectOptions {
  Index tokens = 32768;        // approximate; rounded to whole segments of context
  Index window = 96;           // tokens shown one by one
  Index window_at = -1;        // where it begins, in tokens of the held-out part; -1: at a line in the middle
  std::size_t strongest = 10;  // tokens listed for every component
};

// Throws std::runtime_error if the model has no Gaussian components, and std::invalid_argument on options for which the
// text is too short.
Inspection inspect(const language_model::Checkpoint& checkpoint, const language_model::Text& text,
                   const InspectOptions& options);

}  // namespace inspect_routing
