// SPDX-License-Identifier: MIT

#include "inspection.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "affinity.hpp"
#include "legible.hpp"
#include "routing.hpp"

namespace inspect_routing {

namespace {

using language_model::Checkpoint;
using language_model::Text;
using transformer::require;

constexpr std::size_t bytes_before = 28, bytes_after = 20, common_tokens = 8;

// The bytes of every token of the vocabulary, and the text around a position.
class Reader {
 public:
  explicit Reader(const Text& text) : text_(text) {
    for (Index id = 0; id < text.vocabulary.size(); ++id) bytes_.push_back(text.vocabulary.decode(Token(id)));
  }

  const std::string& of_id(Token token) const { return bytes_[token]; }
  const std::string& at(Index position) const { return of_id(text_.tokens[std::size_t(position)]); }

  char last_byte_before(Index position) const {
    while (--position >= 0)
      if (!at(position).empty()) return at(position).back();
    return 0;
  }

  SeenToken seen(Index position) const {
    SeenToken token{position, text_.tokens[std::size_t(position)], {}, 0};
    token.form = surface_form(at(position), last_byte_before(position));
    for (Index i = (std::max)(Index(0), position - 3); i <= position; ++i)
      token.phrase = (token.phrase << 16) | text_.tokens[std::size_t(i)];
    return token;
  }

  ContextToken context(const StrongToken& strong) const {
    std::string before, after;
    for (Index i = strong.position; --i >= 0 && before.size() < bytes_before;) before.insert(0, at(i));
    for (Index i = strong.position; ++i < text_.size() && after.size() < bytes_after;) after += at(i);
    return {std::string(last_letters(before, bytes_before)), at(strong.position),
            std::string(first_letters(after, bytes_after)), double(strong.responsibility)};
  }

 private:
  const Text& text_;
  std::vector<std::string> bytes_;
};

struct HeadStatistics {
  ComponentStatistics keys, queries;
  std::vector<double> rates;       // of forgetting, every token
  std::vector<SurfaceForm> forms;  // of the same tokens
  double held = 0;                 // sum over tokens of what the memory holds
};

SideReport side_report(const ComponentStatistics& statistics, const Reader& reader) {
  SideReport report;
  report.tokens = statistics.tokens();
  report.usage = statistics.usage();
  report.usage_entropy = entropy(report.usage);
  report.dead = dead_components(report.usage);
  report.token_entropy = statistics.token_entropy();
  report.token_components = statistics.token_components();
  report.forms = statistics.forms();
  report.information = mutual_information(report.forms);
  for (Index k = 0; k < statistics.components(); ++k) {
    report.strongest.emplace_back();
    for (const StrongToken& strong : statistics.strongest(k)) report.strongest.back().push_back(reader.context(strong));
    report.common.emplace_back();
    for (const auto& [token, count] : statistics.common(k, common_tokens))
      report.common.back().push_back({reader.of_id(token), count});
  }
  return report;
}

double time_of(double rate) { return 1 / (std::max)(rate, 1e-9); }

ForgettingReport forgetting_report(const HeadStatistics& statistics) {
  std::vector<double> rates = statistics.rates;
  const std::vector<SurfaceForm>& forms = statistics.forms;
  ForgettingReport report;
  report.held = statistics.held / double(rates.size());
  std::vector<double> sums(std::size_t(surface_forms), 0.0), counts = sums;
  double sum = 0;
  for (std::size_t t = 0; t < rates.size(); ++t) {
    sum += rates[t];
    sums[std::size_t(forms[t])] += rates[t];
    counts[std::size_t(forms[t])] += 1;
  }
  report.mean_time = time_of(sum / double(rates.size()));
  for (std::size_t f = 0; f < sums.size(); ++f)
    report.form_times.push_back(counts[f] > 0 ? time_of(sums[f] / counts[f]) : 0.0);
  std::sort(rates.begin(), rates.end());
  const auto quantile = [&](double q) { return time_of(rates[std::size_t(q * double(rates.size() - 1))]); };
  report.low = quantile(0.9);
  report.median = quantile(0.5);
  report.high = quantile(0.1);
  return report;
}

void read_statistics(RoutingReader& routing, const Text& text, const Reader& reader, const InspectOptions& options,
                     Inspection& result) {
  const Index context = (std::min)(result.context, text.held_out());
  const Index segments = (std::max)(Index(1), (std::min)(options.tokens, text.held_out()) / context);
  const ComponentStatistics none(result.components, options.strongest);
  const HeadStatistics empty{none, none, {}, {}};
  std::vector<HeadStatistics> heads(result.heads.size(), empty);
  std::vector<SeenToken> seen(static_cast<std::size_t>(context));
  for (Index s = 0; s < segments; ++s) {
    const Index begin = text.split + (text.held_out() - context) * s / (std::max)(Index(1), segments - 1);
    for (Index t = 0; t < context; ++t) seen[std::size_t(t)] = reader.seen(begin + t);
    routing.read(text.data() + begin, context, [&](Index layer, Index head, const HeadRouting& routed) {
      HeadStatistics& statistics = heads[std::size_t(layer * result.model.heads + head)];
      statistics.keys.add(routed.keys, seen.data());
      statistics.queries.add(routed.queries, seen.data());
      double held = 0;
      for (Index t = 0; t < routed.log_forgetting.size(); ++t) {
        held = 1 + held * std::exp(routed.log_forgetting(t));
        statistics.held += held;
        statistics.rates.push_back(-routed.log_forgetting(t));
        statistics.forms.push_back(seen[std::size_t(t)].form);
      }
    });
  }
  result.tokens = segments * context;
  for (std::size_t i = 0; i < heads.size(); ++i) {
    HeadReport& report = result.heads[i];
    report.keys = side_report(heads[i].keys, reader);
    report.queries = side_report(heads[i].queries, reader);
    report.has_forgetting = !heads[i].rates.empty();
    if (report.has_forgetting) report.forgetting = forgetting_report(heads[i]);
  }
}

// In tokens of the text: the first line that begins in the second half of the held-out part, or the requested position.
Index window_begin(const Text& text, const Reader& reader, const InspectOptions& options) {
  const Index last = text.size() - options.window;
  if (options.window_at >= 0) {
    require(text.split + options.window_at <= last,
            "window-at must leave room for the window: at most " + std::to_string(last - text.split));
    return text.split + options.window_at;
  }
  const Index middle = (std::min)(text.split + text.held_out() / 2, last);
  for (Index begin = middle; begin <= (std::min)(last, middle + 2000); ++begin)
    if (reader.last_byte_before(begin) == '\n') return begin;
  return middle;
}

void read_window(RoutingReader& routing, const Text& text, const Reader& reader, const InspectOptions& options,
                 Inspection& result) {
  const Index begin = window_begin(text, reader, options), count = options.window;
  const Index lead = (std::min)((std::max)(Index(0), result.context - count), begin);
  result.window_position = begin - text.split;
  for (Index t = 0; t < count; ++t) result.window_tokens.push_back(reader.at(begin + t));
  routing.read(text.data() + begin - lead, lead + count, [&](Index layer, Index head, const HeadRouting& routed) {
    const Matrix<double> queries = routed.queries.cast<double>(), keys = routed.keys.cast<double>();
    const Matrix<double> all = affinity(queries, keys, routed.log_forgetting);
    WindowReport& window = result.heads[std::size_t(layer * result.model.heads + head)].window;
    window.queries = queries.bottomRows(count);
    window.keys = keys.bottomRows(count);
    window.affinity = all.bottomRightCorner(count, count);
    window.before = all.bottomLeftCorner(count, lead).rowwise().sum();
    window.kept = Vector<double>::Ones(count);
    if (routed.log_forgetting.size() > 0) window.kept = routed.log_forgetting.tail(count).array().exp();
  });
}

}  // namespace

Inspection inspect(const Checkpoint& checkpoint, const Text& text, const InspectOptions& options) {
  require(options.tokens >= 1, "tokens must be at least 1");
  require(options.window >= 1 && options.window <= 1024, "window must be between 1 and 1024 tokens");
  require(options.window <= text.held_out(),
          "window must not be longer than the held-out part, " + std::to_string(text.held_out()) + " tokens");
  RoutingReader routing(checkpoint);
  const Reader reader(text);
  Inspection result;
  result.model = checkpoint.model;
  result.text = text.name;
  result.is_bytes = text.vocabulary.is_bytes();
  result.steps = checkpoint.state.steps;
  result.context = checkpoint.train.context;
  result.factors = checkpoint.model.mixer == transformer::MixerKind::gma
                       ? checkpoint.model.components
                       : std::vector<Index>{checkpoint.model.plain_components};
  result.components = routing.components();
  for (Index layer = 0; layer < checkpoint.model.layers; ++layer) {
    for (Index head = 0; head < checkpoint.model.heads; ++head) {
      HeadReport report;
      report.layer = layer;
      report.head = head;
      report.temperatures = routing.temperatures(layer, head);
      result.heads.push_back(std::move(report));
    }
  }
  read_statistics(routing, text, reader, options, result);
  read_window(routing, text, reader, options, result);
  return result;
}

}  // namespace inspect_routing
