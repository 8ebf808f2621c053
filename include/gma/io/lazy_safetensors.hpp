// SPDX-License-Identifier: MIT
// Safetensors files that are larger than what is needed of them: a file, or all shards of a model, of which each tensor
// is read or mapped into memory only when it is asked for. Needs nlohmann_json (CMake target gma::io).
//
//   gma::io::LazySafeTensors model("Model-7B");               // the folder, its index, or a single file
//   const gma::Matrix<float> w = model.read("layers.0.query.weight").matrix<float>();
//   const auto embedding = model.view("embed.weight");         // mapped: a page is loaded when it is touched
//   const gma::Matrix<float> token = embedding.map<Eigen::bfloat16>().row(42).cast<float>();
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/types.hpp"
#include "gma/io/file.hpp"
#include "gma/io/range_file.hpp"
#include "gma/io/safetensors.hpp"
#include "gma/io/safetensors_index.hpp"
#include "gma/io/tensor.hpp"

namespace gma::io {

/// A tensor without its numbers.
struct TensorInfo {
  DataType type = DataType::f32;   ///< of its numbers
  std::vector<Index> shape = {0};  ///< {} is a single number
  std::uint64_t bytes = 0;         ///< of all its numbers
  std::string other_type = {};     ///< the type's name where `type` is DataType::other, else empty
};

/// A tensor whose bytes stay in the file. Its copies share the mapping, which lives as long as one of them, also after
/// the LazySafeTensors that gave it.
class TensorView {
 public:
  /// LazySafeTensors::view() makes views.
  TensorView(TensorInfo info, std::shared_ptr<const detail::RangeFile> file, std::uint64_t offset)
      : info_(std::move(info)), file_(std::move(file)), offset_(offset), bytes_(file_->map(offset, info_.bytes)) {}

  /// Type, shape and size.
  const TensorInfo& info() const { return info_; }

  /// The info().bytes bytes, little-endian and row-major.
  const unsigned char* data() const { return bytes_.get(); }

  /// As Tensor::matrix(): the numbers as S, copied, and read from the file without the mapping. Cost O(size). Throws
  /// std::invalid_argument for DataType::other, and std::runtime_error if the file no longer has the bytes.
  template <class S>
  Matrix<S> matrix() const;

  /// The numbers in place, in the shape of matrix(). S is the type in the file. Cost O(1); only what is touched is
  /// loaded. Throws std::invalid_argument if the file has another type, if its bytes are not aligned to S, or on a
  /// machine that is not little-endian, and std::runtime_error if the file no longer has the bytes. The map must not
  /// outlive the view and its copies.
  template <class S>
  Eigen::Map<const Matrix<S>> map() const;

 private:
  TensorInfo info_;
  std::shared_ptr<const detail::RangeFile> file_;
  std::uint64_t offset_;
  std::shared_ptr<const unsigned char> bytes_;
};

namespace detail {
struct SafeTensorsShard {
  std::filesystem::path path;
  std::shared_ptr<const RangeFile> file;  // null before it is needed
  SafeTensorsHeader header;
  std::uint64_t data_begin = 0;
};
}  // namespace detail

/// The tensors of a file or of a model in shards. A shard is opened, and its header checked as by read_safetensors(),
/// when a tensor of it is first asked for: shards that nobody needs may be missing. What is open stays the same file
/// when another one takes its name. Not for several threads at a time.
///
/// Every function throws std::runtime_error "gma::io::LazySafeTensors: <path>: <what>" for a file that is missing or
/// not valid, also one that became shorter since it was opened, for a tensor that is not in the shard that the index
/// names, and for a name that is not there.
class LazySafeTensors {
 public:
  /// `path` is a safetensors file; an index, whose name ends with .json; or a folder that holds model.safetensors or
  /// model.safetensors.index.json. Tensors of a shard that the index does not list are no part of the model. Cost
  /// O(header or index).
  explicit LazySafeTensors(const std::filesystem::path& path);

  /// The names of all tensors, in order. Opens nothing.
  std::vector<std::string> names() const;

  /// Whether there is a tensor of this name. Opens nothing.
  bool contains(const std::string& name) const { return shard_of_.count(name) > 0; }

  /// The file's metadata; of a model in shards, that of the shard whose name comes first.
  const std::map<std::string, std::string>& metadata() const;

  /// Type, shape and size of a tensor.
  TensorInfo info(const std::string& name) const;

  /// A copy of a tensor. Cost O(its size): one range of one file is read, and nothing else.
  Tensor read(const std::string& name) const;

  /// A tensor whose bytes are mapped into memory; on systems without mmap, and file systems that refuse it, they are
  /// copied. Booleans are not checked. Takes address space, and no heap memory for the bytes.
  /// A file that becomes shorter later takes the bytes away. matrix() and map() throw then, but a program that has
  /// such a map or data() already is ended by the system (SIGBUS) when it touches them. Use read() or matrix() for
  /// files that others may be writing into.
  TensorView view(const std::string& name) const;

  /// Opens every shard. Throws as above if any of them is missing, not valid or lacks a tensor, and if the index has a
  /// total_size that is not the number of bytes of its tensors. Cost O(headers).
  void check_all() const;

 private:
  template <class... Parts>
  [[noreturn]] static void fail(const std::filesystem::path& path, const Parts&... parts) {
    gma::detail::runtime_error(function, detail::shown_path(path), ": ", parts...);
  }
  using Shard = detail::SafeTensorsShard;
  const Shard& opened(std::size_t shard) const;
  std::pair<const Shard*, const detail::SafeTensorsEntry*> find(const std::string& name) const;

  static constexpr const char* function = "io::LazySafeTensors";
  std::filesystem::path path_;  // of the file or of the index
  bool has_index_ = false;
  std::optional<std::uint64_t> total_size_;
  std::map<std::string, std::size_t> shard_of_;
  mutable std::vector<Shard> shards_;  // in the order of their names
};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

inline TensorInfo info_of(const SafeTensorsEntry& entry) {
  return {entry.type, entry.shape, entry.end - entry.begin, entry.other_type};
}

inline void check_view(const char* function, const TensorInfo& info) {
  if (info.type != DataType::other) return;
  gma::detail::invalid_argument(function, "tensor is of the type ", info.other_type,
                                ", which gma does not know: its bytes give no numbers");
}

}  // namespace detail

template <class S>
Matrix<S> TensorView::matrix() const {
  detail::check_view("io::TensorView::matrix", info_);
  const auto [rows, cols] = detail::matrix_extents(info_.shape);
  file_->check(offset_, info_.bytes);  // before memory is taken for it
  Matrix<S> result(rows, cols);
  constexpr std::size_t most = 1 << 16;
  const auto width = static_cast<std::size_t>(width_of(info_.type));
  std::vector<unsigned char> block((std::min)(std::uint64_t{most}, info_.bytes));
  S* next = result.data();
  for (std::uint64_t done = 0; done < info_.bytes; done += block.size()) {
    if (info_.bytes - done < block.size()) block.resize(static_cast<std::size_t>(info_.bytes - done));
    file_->read(offset_ + done, block.data(), block.size());
    const auto count = static_cast<Index>(block.size() / width);
    detail::copy_numbers(info_.type, block.data(), count, next);
    next += count;
  }
  return result;
}

template <class S>
Eigen::Map<const Matrix<S>> TensorView::map() const {
  constexpr const char* function = "io::TensorView::map";
  detail::check_view(function, info_);
  if (info_.type != data_type_of<S>()) {
    gma::detail::invalid_argument(function, "tensor is of the type ", name_of(info_.type), ", expected ",
                                  name_of(data_type_of<S>()), ", or a call of matrix(), which converts");
  }
  if (!detail::is_little_endian_machine() || reinterpret_cast<std::uintptr_t>(data()) % alignof(S) != 0) {
    gma::detail::invalid_argument(function, "tensor's bytes are not laid out as this machine's numbers ",
                                  "(little-endian, aligned to ", alignof(S), " bytes); call matrix(), which copies");
  }
  file_->check(offset_, info_.bytes);
  const auto [rows, cols] = detail::matrix_extents(info_.shape);
  return {reinterpret_cast<const S*>(data()), rows, cols};
}

inline LazySafeTensors::LazySafeTensors(const std::filesystem::path& path) : path_(path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    path_ = path / "model.safetensors";
    if (!std::filesystem::exists(path_, ignored)) path_ = path / "model.safetensors.index.json";
    if (!std::filesystem::exists(path_, ignored)) {
      fail(path, "the folder holds neither model.safetensors nor model.safetensors.index.json");
    }
  }
  has_index_ = path_.extension() == ".json";
  if (!has_index_) {
    shards_.emplace_back();
    shards_.back().path = path_;
    for (const auto& [name, entry] : opened(0).header.entries) shard_of_[name] = 0;
    return;
  }
  detail::Input input(function, path_);
  const SafeTensorsIndex index = detail::read_safetensors_index(input);
  total_size_ = index.total_size;
  std::map<std::string, std::size_t> numbers;
  for (const auto& [name, file] : index.files) numbers[file] = 0;
  for (auto& [file, number] : numbers) {
    number = shards_.size();
    shards_.emplace_back();
    shards_.back().path = path_.parent_path() / file;
  }
  for (const auto& [name, file] : index.files) shard_of_[name] = numbers[file];
}

inline const detail::SafeTensorsShard& LazySafeTensors::opened(std::size_t shard) const {
  Shard& found = shards_[shard];
  if (found.file != nullptr) return found;
  auto file = std::make_shared<const detail::RangeFile>(function, found.path);
  detail::Input input(function, found.path, *file);
  detail::SafeTensorsHeader header = detail::read_safetensors_header(input);
  detail::entries_in_order(input, header);
  found.data_begin = file->size() - input.remaining();
  found.header = std::move(header);
  found.file = std::move(file);
  return found;
}

inline std::pair<const detail::SafeTensorsShard*, const detail::SafeTensorsEntry*> LazySafeTensors::find(
    const std::string& name) const {
  const auto number = shard_of_.find(name);
  if (number == shard_of_.end()) fail(path_, "there is no tensor ", detail::excerpt(name));
  const Shard& shard = opened(number->second);
  const auto entry = shard.header.entries.find(name);
  if (entry == shard.header.entries.end()) {
    fail(shard.path, "it lacks the tensor ", detail::excerpt(name), ", which the index ", path_.filename().string(),
         " says it has");
  }
  return {&shard, &entry->second};
}

inline std::vector<std::string> LazySafeTensors::names() const {
  std::vector<std::string> names;
  for (const auto& named : shard_of_) names.push_back(named.first);
  return names;
}

inline const std::map<std::string, std::string>& LazySafeTensors::metadata() const {
  static const std::map<std::string, std::string> none;
  return shards_.empty() ? none : opened(0).header.metadata;
}

inline TensorInfo LazySafeTensors::info(const std::string& name) const { return detail::info_of(*find(name).second); }

inline Tensor LazySafeTensors::read(const std::string& name) const {
  const auto [shard, entry] = find(name);
  Tensor tensor{entry->type, entry->shape, {}, entry->other_type};
  tensor.bytes.resize(static_cast<std::size_t>(entry->end - entry->begin));
  shard->file->read(shard->data_begin + entry->begin, tensor.bytes.data(), tensor.bytes.size());
  const std::string fault = detail::fault_of(tensor);
  if (!fault.empty()) fail(shard->path, "tensor ", detail::excerpt(name), " has ", fault);
  return tensor;
}

inline TensorView LazySafeTensors::view(const std::string& name) const {
  const auto [shard, entry] = find(name);
  return {detail::info_of(*entry), shard->file, shard->data_begin + entry->begin};
}

inline void LazySafeTensors::check_all() const {
  std::uint64_t total = 0;
  for (const auto& named : shard_of_) {
    const std::uint64_t bytes = info(named.first).bytes;
    total = bytes > ~std::uint64_t{0} - total ? ~std::uint64_t{0} : total + bytes;
  }
  if (total_size_ && *total_size_ != total) {
    fail(path_, "metadata.total_size is ", *total_size_, ", expected ", total, " (the bytes of all tensors)");
  }
}

}  // namespace gma::io
