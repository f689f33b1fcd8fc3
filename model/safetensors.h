// Reads the tensors of a checkpoint folder by memory mapping: model.safetensors, or the shards that
// model.safetensors.index.json names.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"

namespace fla {

// A tensor as stored: row-major, little-endian, not necessarily aligned to its element size.
struct StoredTensor {
  std::string file;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const char* data = nullptr;
  int64_t elements = 0;
};

// "[2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);

// Every tensor of the checkpoint, mapped for as long as this lives.
//
// Thread safety: immutable after Open.
class Checkpoint {
 public:
  // Throws std::runtime_error "file: what: wanted, got" for a missing or malformed file: header
  // over 100 MB, bad JSON, duplicate names, offsets that overlap, leave gaps or leave the file, a
  // dtype other than F32, F16, BF16, sizes that do not match, an index that names a file outside
  // the folder or a tensor that is not there.
  static Checkpoint Open(const std::filesystem::path& folder);

  Checkpoint(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const std::filesystem::path& folder() const { return folder_; }
  // Bytes of all tensors.
  int64_t bytes() const;

 private:
  class Mapping;
  Checkpoint();
  void AddFile(const std::filesystem::path& file);
  void ParseHeader(const std::string& file, std::string_view header, std::string_view payload);

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<Mapping>> mappings_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace fla
