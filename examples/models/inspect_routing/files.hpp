// SPDX-License-Identifier: MIT
//
// All files of an inspection: the page and the tables.
#pragma once

#include <filesystem>

#include "page.hpp"
#include "tables.hpp"
#include "transformer/write_file.hpp"

namespace inspect_routing {

inline void write_files(const std::filesystem::path& directory, const Inspection& inspection) {
  using transformer::write_file;
  write_file(directory / "summary.csv", summary_csv(inspection));
  write_file(directory / "usage.csv", usage_csv(inspection));
  write_file(directory / "tokens.csv", tokens_csv(inspection));
  write_file(directory / "responsibilities.csv", responsibilities_csv(inspection));
  write_file(directory / "affinity.csv", affinity_csv(inspection));
  write_file(directory / "routing.html", page(inspection));
}

}  // namespace inspect_routing
