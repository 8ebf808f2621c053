// SPDX-License-Identifier: MIT
//
// The file: 8 bytes "GMAENDLS", the length of the header (8 bytes, little-endian), a header of JSON, the state of the
// model, and the fingerprint of all of this (8 bytes).

#include "saved_state.hpp"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "transformer/write_file.hpp"

namespace endless_text {

namespace {

constexpr char magic[] = "GMAENDLS";
constexpr int version = 1;

void append(std::string& bytes, std::uint64_t number) {
  for (int i = 0; i < 8; ++i) bytes += char((number >> (8 * i)) & 255);
}
std::uint64_t number_at(const std::string& bytes, std::size_t begin) {
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < 8; ++i) number |= std::uint64_t(static_cast<unsigned char>(bytes[begin + i])) << (8 * i);
  return number;
}

// Bytes as JSON: a string must be UTF-8, and pieces of a text need not be.
std::vector<int> to_json(const std::string& bytes) {
  std::vector<int> numbers;
  for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
  return numbers;
}
std::string from_json(const std::vector<int>& numbers) {
  std::string bytes;
  for (const int n : numbers) bytes += char(n);
  return bytes;
}

// A sum of doubles keeps its bits in JSON: it is written with as many digits as that takes.
nlohmann::json to_json(const std::vector<Span>& spans) {
  nlohmann::json list = nlohmann::json::array();
  for (const Span& span : spans) list.push_back({span.begin, span.end, span.bytes, span.nats});
  return list;
}
Span span_of(const nlohmann::json& list) { return {list.at(0), list.at(1), list.at(2), list.at(3)}; }
std::vector<Span> spans_of(const nlohmann::json& lists) {
  std::vector<Span> spans;
  for (const auto& list : lists) spans.push_back(span_of(list));
  return spans;
}

nlohmann::json header_of(const StreamState& s) {
  nlohmann::json costs = nlohmann::json::array();
  for (const Cost& cost : s.losses.costs()) costs.push_back({cost.seconds, cost.peak_resident_bytes});
  return {{"version", version},
          {"model", s.model},
          {"chunk", s.chunk},
          {"begin", s.begin},
          {"bytes_read", s.bytes_read},
          {"text", s.text.value()},
          {"pending", to_json(s.pending)},
          {"seconds", s.seconds},
          {"total", to_json(std::vector<Span>{s.losses.total()})},
          {"bands", to_json(s.losses.bands())},
          {"megabytes", to_json(s.losses.megabytes())},
          {"costs", costs}};
}

void read_header(const nlohmann::json& header, StreamState& s) {
  header.at("chunk").get_to(s.chunk);
  header.at("begin").get_to(s.begin);
  header.at("bytes_read").get_to(s.bytes_read);
  s.text = Fingerprint(header.at("text").get<std::uint64_t>());
  s.pending = from_json(header.at("pending").get<std::vector<int>>());
  header.at("seconds").get_to(s.seconds);
  std::vector<Cost> costs;
  for (const auto& cost : header.at("costs")) costs.push_back({cost.at(0), cost.at(1)});
  s.losses = Losses(span_of(header.at("total").at(0)), spans_of(header.at("bands")), spans_of(header.at("megabytes")),
                    std::move(costs));
  if (s.chunk < 1 || s.begin < 0 || s.bytes_read < s.begin || s.losses.costs().size() != s.losses.megabytes().size())
    throw std::runtime_error("its header is impossible");
}

void parse(const std::string& bytes, StreamState& state) {
  if (bytes.size() < 24 || bytes.compare(0, 8, magic) != 0)
    throw std::runtime_error("it is not the state of a stream of this program");
  Fingerprint whole;
  whole.add(bytes.data(), bytes.size() - 8);
  if (whole.value() != number_at(bytes, bytes.size() - 8)) throw std::runtime_error("it is damaged");
  const std::uint64_t length = number_at(bytes, 8);
  if (length > bytes.size() - 24) throw std::runtime_error("it is damaged");
  const auto header = nlohmann::json::parse(bytes.substr(16, std::size_t(length)));
  if (header.at("version") != version) throw std::runtime_error("it is of another version of this program");
  if (header.at("model") != state.model) throw std::runtime_error("it is of a stream through another model");
  read_header(header, state);
  std::istringstream memory(bytes.substr(16 + std::size_t(length), bytes.size() - 24 - std::size_t(length)));
  state.memory.load(memory);
}

}  // namespace

void save_state(const std::string& path, const StreamState& state) {
  const std::string header = header_of(state).dump();
  std::string bytes(magic, 8);
  append(bytes, header.size());
  bytes += header;
  std::ostringstream memory;
  state.memory.save(memory);
  bytes += memory.str();
  Fingerprint whole;
  whole.add(bytes.data(), bytes.size());
  append(bytes, whole.value());
  transformer::write_file(path, bytes);
}

void load_state(const std::string& path, StreamState& state) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read the state " + path);
  const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  try {
    parse(bytes, state);
  } catch (const std::exception& error) {
    throw std::runtime_error("cannot go on from the state " + path + ": " + error.what());
  }
}

}  // namespace endless_text
