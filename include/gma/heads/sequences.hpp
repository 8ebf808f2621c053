// SPDX-License-Identifier: MIT
// Which token rows belong to which sequence of a batch: packed back to back, padded to one length, or masked. Rows that
// belong to none are padding: their outputs and gradients are exactly zero, and what they contain has no effect.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/types.hpp"

namespace gma {

/// The sequences of a batch whose token rows lie one below the other: row b N + t is token t of entry b where every
/// entry has N rows. Every sequence is attended to on its own. Default: every entry is one whole sequence.
struct Sequences {
  /// Packed: sequence i is rows [offsets[i], offsets[i + 1]). B + 1 of them, monotone, the first 0, the last the number
  /// of rows. Empty sequences are allowed.
  std::vector<std::int64_t> offsets;

  /// Padded: the batch has lengths.size() entries of as many rows each, and entry b is its first lengths[b] rows.
  std::vector<std::int64_t> lengths;

  /// One number a row, 0 or 1: rows with 0 are not there, as if the sequence had been packed without them. Goes with
  /// either of the above. Padding on the left is a mask that begins with zeros.
  std::vector<std::uint8_t> keep;

  /// What was asked for by one of the functions below, so that an empty list isn't taken for the default: padded({}) is
  /// a batch of no entries and of no rows, masked({}) is for no rows, and both are refused where there are rows.
  enum class Form { whole, padded, masked };
  Form form = Form::whole;  ///< set by packed(), padded() and masked()

  /// Throws std::invalid_argument if `offsets` is empty: a batch of no sequences is packed({0}).
  static Sequences packed(std::vector<std::int64_t> offsets);
  static Sequences padded(std::vector<std::int64_t> lengths);
  static Sequences masked(std::vector<std::uint8_t> keep);
};

// Implementation -----------------------------------------------------------------------------------------------------

inline Sequences Sequences::packed(std::vector<std::int64_t> offsets) {
  if (offsets.empty()) {
    detail::invalid_argument("Sequences::packed", "offsets is empty, expected one more than there are sequences");
  }
  Sequences sequences;
  sequences.offsets = std::move(offsets);
  return sequences;
}

inline Sequences Sequences::padded(std::vector<std::int64_t> lengths) {
  Sequences sequences;
  sequences.lengths = std::move(lengths);
  sequences.form = Form::padded;
  return sequences;
}

inline Sequences Sequences::masked(std::vector<std::uint8_t> keep) {
  Sequences sequences;
  sequences.keep = std::move(keep);
  sequences.form = Form::masked;
  return sequences;
}

namespace detail {

/// Sequences resolved: spans of consecutive rows, or, where rows are masked, spans of a list of rows.
struct Placement {
  struct Span {
    Index begin, count;
  };
  std::vector<Span> spans;
  std::vector<Index> kept;  // not empty: spans are of this list
  bool is_masked = false;
  bool has_padding = false;  // some row belongs to no sequence

  Index count() const { return static_cast<Index>(spans.size()); }
  const Span& operator[](Index i) const { return spans[static_cast<std::size_t>(i)]; }
  Index row(Index i) const { return is_masked ? kept[static_cast<std::size_t>(i)] : i; }
};

inline void place_packed(const char* function, const char* argument, const std::vector<std::int64_t>& offsets,
                         Index rows, Placement& placement) {
  if (offsets.front() != 0 || offsets.back() != rows) {
    invalid_argument(function, argument, ".offsets begin with ", offsets.front(), " and end with ", offsets.back(),
                     ", expected 0 and ", rows, " (the number of rows)");
  }
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    if (offsets[i + 1] < offsets[i]) {
      invalid_argument(function, argument, ".offsets fall from ", offsets[i], " to ", offsets[i + 1], " at ", i + 1,
                       ", expected them monotone");
    }
    const std::int64_t begin = offsets[i], count = offsets[i + 1] - begin;
    placement.spans.push_back({static_cast<Index>(begin), static_cast<Index>(count)});
  }
}

inline void place_padded(const char* function, const char* argument, const std::vector<std::int64_t>& lengths,
                         Index batch, Index rows, Placement& placement) {
  const Index entries = static_cast<Index>(lengths.size());
  if (batch != 1 && batch != entries) {
    invalid_argument(function, argument, ".lengths has ", entries, " entries, expected ", batch, " (one per batch)");
  }
  if (entries == 0 ? rows != 0 : rows % entries != 0) {
    invalid_argument(function, argument, ".lengths has ", entries, " entries for ", rows,
                     " rows, expected a number that divides them");
  }
  const Index padded = entries == 0 ? 0 : rows / entries;
  for (Index b = 0; b < entries; ++b) {
    const std::int64_t length = lengths[static_cast<std::size_t>(b)];
    if (length < 0 || length > padded) {
      invalid_argument(function, argument, ".lengths is ", length, " at ", b, ", expected 0 to ", padded,
                       " (the rows of an entry)");
    }
    placement.spans.push_back({b * padded, static_cast<Index>(length)});
    placement.has_padding = placement.has_padding || length < padded;
  }
}

inline void drop_masked(const char* function, const char* argument, const std::vector<std::uint8_t>& keep, Index rows,
                        Placement& placement) {
  check_size(function, (std::string(argument) + ".keep").c_str(), "entries", static_cast<Index>(keep.size()), rows,
             "one per row");
  for (std::size_t i = 0; i < keep.size(); ++i) {
    if (keep[i] > 1) invalid_argument(function, argument, ".keep is ", +keep[i], " at ", i, ", expected 0 or 1");
  }
  placement.is_masked = true;
  placement.has_padding = true;
  for (Placement::Span& span : placement.spans) {
    const Index begin = static_cast<Index>(placement.kept.size());
    for (Index i = span.begin; i < span.begin + span.count; ++i) {
      if (keep[static_cast<std::size_t>(i)] != 0) placement.kept.push_back(i);
    }
    span = {begin, static_cast<Index>(placement.kept.size()) - begin};
  }
}

/// The spans of `rows` token rows of `batch` entries; checks everything. `placement` keeps its memory from call to
/// call.
inline void place(const char* function, const char* argument, const Sequences& sequences, Index batch, Index rows,
                  Placement& placement) {
  placement.spans.clear();
  placement.kept.clear();
  placement.is_masked = placement.has_padding = false;
  if (!sequences.offsets.empty() && !sequences.lengths.empty()) {
    invalid_argument(function, argument, " has offsets and lengths, expected one of them");
  }
  if (!sequences.offsets.empty()) {
    if (batch != 1) {
      invalid_argument(function, argument, ".offsets are given for a batch of ", batch,
                       " entries, expected packed rows (one entry)");
    }
    place_packed(function, argument, sequences.offsets, rows, placement);
  } else if (!sequences.lengths.empty() || sequences.form == Sequences::Form::padded) {
    place_padded(function, argument, sequences.lengths, batch, rows, placement);
  } else {
    for (Index b = 0; b < batch; ++b) placement.spans.push_back({b * (rows / batch), rows / batch});
  }
  if (!sequences.keep.empty() || sequences.form == Sequences::Form::masked) {
    drop_masked(function, argument, sequences.keep, rows, placement);
  }
}

}  // namespace detail
}  // namespace gma
