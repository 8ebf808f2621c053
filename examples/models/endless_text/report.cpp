// SPDX-License-Identifier: MIT

#include "report.hpp"

#include <algorithm>
#include <vector>

#include "transformer/progress.hpp"

namespace endless_text {

namespace {

using transformer::format;

// The first and the last position of a span that have been reached.
std::int64_t first_of(const Span& span) { return (std::max)(span.begin, std::int64_t(1)); }
std::int64_t last_of(const Span& span) { return first_of(span) + span.bytes - 1; }

std::string row(const Span& span) {
  return format("%13lld  to %13lld  %8.4f", static_cast<long long>(first_of(span)),
                static_cast<long long>(last_of(span)), span.bits_per_byte());
}

// Megabytes [begin, end) as one span.
Span sum(const std::vector<Span>& megabytes, std::size_t begin, std::size_t end) {
  Span all = megabytes[begin];
  for (std::size_t i = begin + 1; i < end; ++i) {
    all.end = megabytes[i].end;
    all.bytes += megabytes[i].bytes;
    all.nats += megabytes[i].nats;
  }
  return all;
}

nlohmann::json to_json(const Span& span) {
  return {{"begin", first_of(span)},
          {"end", last_of(span) + 1},
          {"bytes", span.bytes},
          {"nats", span.nats},
          {"bits_per_byte", span.bits_per_byte()}};
}

}  // namespace

std::string table(const ReadResult& result, Index context) {
  const Losses& losses = result.losses;
  if (losses.total().bytes == 0) return "No byte was predicted.\n";
  std::string text = "   bytes before it              bits/byte\n";
  for (const Span& band : losses.bands()) {
    text += row(band);
    if (context > 0 && first_of(band) >= context) text += "  beyond the context of training";
    text += "\n";
  }
  const std::vector<Span>& megabytes = losses.megabytes();
  const std::size_t step = (megabytes.size() + 9) / 10;
  text += "\n   by megabyte                  bits/byte   MB resident at most\n";
  const auto line = [&](std::size_t begin, std::size_t end) {
    text += row(sum(megabytes, begin, end)) +
            format("  %10.1f\n", double(losses.costs()[end - 1].peak_resident_bytes) * 1e-6);
  };
  for (std::size_t begin = 0; begin < megabytes.size(); begin += step)
    line(begin, (std::min)(begin + step, megabytes.size()));
  if (step > 1) {
    text += "   the last\n";
    line(megabytes.size() - 1, megabytes.size());
  }
  const Span& total = losses.total();
  text += format("\n%lld bytes, %.4f bits/byte; %lld bytes in %.1f s here, %.0f kB/s; ",
                 static_cast<long long>(total.bytes), total.bits_per_byte(), static_cast<long long>(result.bytes_here),
                 result.seconds_here, 1e-3 * double(result.bytes_here) / (std::max)(result.seconds_here, 1e-9));
  return text + format("%.1f MB resident at most, %.0f kB of them the model's memory of the text\n",
                       double(result.peak_resident_bytes) * 1e-6, double(result.memory_bytes) * 1e-3);
}

std::string csv(const ReadResult& result) {
  std::string text = "span,begin,end,bytes,nats,bits_per_byte\n";
  const auto add = [&](const char* name, const Span& span) {
    text += format("%s,%lld,%lld,%lld,%.17g,%.6f\n", name, static_cast<long long>(first_of(span)),
                   static_cast<long long>(last_of(span) + 1), static_cast<long long>(span.bytes), span.nats,
                   span.bits_per_byte());
  };
  if (result.losses.total().bytes > 0) add("all", result.losses.total());
  for (const Span& span : result.losses.bands()) add("band", span);
  for (const Span& span : result.losses.megabytes()) add("megabyte", span);
  return text;
}

nlohmann::json to_json(const ReadResult& result) {
  const Losses& losses = result.losses;
  nlohmann::json bands = nlohmann::json::array(), megabytes = nlohmann::json::array();
  for (const Span& span : losses.bands()) bands.push_back(to_json(span));
  for (std::size_t i = 0; i < losses.megabytes().size(); ++i) {
    nlohmann::json line = to_json(losses.megabytes()[i]);
    line["seconds"] = losses.costs()[i].seconds;
    line["peak_resident_bytes"] = losses.costs()[i].peak_resident_bytes;
    megabytes.push_back(line);
  }
  nlohmann::json all = {{"is_complete", result.is_complete},
                        {"predicted_bytes", losses.total().bytes},
                        {"bands", bands},
                        {"megabytes", megabytes},
                        {"seconds", result.seconds},
                        {"bytes_here", result.bytes_here},
                        {"seconds_here", result.seconds_here},
                        {"peak_resident_bytes", result.peak_resident_bytes},
                        {"memory_bytes", result.memory_bytes},
                        {"threads", result.threads}};
  if (losses.total().bytes > 0) all["bits_per_byte"] = losses.total().bits_per_byte();
  return all;
}

}  // namespace endless_text
