// Reads the tensors of a checkpoint folder: model.safetensors, or the shards that
// model.safetensors.index.json names.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/checkpoint_file.h"

namespace fla {

// What elements may be stored as. F8_E4M3 is the finite kind: no infinities, up to 448.
enum class StoredDType : uint8_t { kF32, kF16, kBF16, kF8E4M3 };

constexpr int64_t SizeOf(StoredDType dtype) {
  return dtype == StoredDType::kF32 ? 4 : dtype == StoredDType::kF8E4M3 ? 1 : 2;
}

// As the format writes it: "BF16".
const char* NameOf(StoredDType dtype);

// Factors of a matrix that is stored in 8 bits, one for each block of rows x cols elements:
// element (r, c) is its stored value times values[(r / rows) * grid_cols + c / cols].
struct BlockScale {
  int64_t rows = 1;
  int64_t cols = 1;
  int64_t grid_cols = 1;
  std::vector<float> values;
};

// A tensor as stored: row-major, little-endian. `source` lives as long as its Checkpoint.
struct StoredTensor {
  const CheckpointFile* source = nullptr;
  std::string name;    // there
  int64_t offset = 0;  // in the file
  StoredDType dtype = StoredDType::kF32;
  std::vector<int64_t> shape;
  int64_t elements = 0;
  std::shared_ptr<const BlockScale> scale;  // null: elements are what is stored

  const std::string& file() const { return source->name(); }
  int64_t bytes() const { return elements * SizeOf(dtype); }
  // Elements of one index of the first dimension; 1 for a scalar.
  int64_t row_elements() const {
    return shape.empty() ? 1 : elements / std::max<int64_t>(shape[0], 1);
  }
};

// "[2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);

// Every tensor of the checkpoint; its files stay open for as long as this lives.
//
// Thread safety: const methods and tensors may be used by any thread.
class Checkpoint {
 public:
  using Tensors = std::map<std::string, StoredTensor>;

  // Throws std::runtime_error "file: what: wanted, got" for a missing or malformed file: header
  // over 100 MB, bad JSON, duplicate names, offsets that overlap, leave gaps or leave the file, a
  // dtype other than F32, F16, BF16 and F8_E4M3, sizes that do not match, an index that names a
  // file outside the folder or a tensor that is not there.
  static Checkpoint Open(const std::filesystem::path& folder);

  const Tensors& tensors() const { return tensors_; }
  // For whoever brings them to the names and shapes that a model asks for (checkpoint_layout.h).
  Tensors& tensors() { return tensors_; }
  const std::filesystem::path& folder() const { return folder_; }
  // Bytes of all tensors, as stored.
  int64_t bytes() const;

 private:
  Checkpoint() = default;
  void AddFile(const std::filesystem::path& file);

  std::filesystem::path folder_;
  std::vector<std::unique_ptr<const CheckpointFile>> files_;
  Tensors tensors_;
};

}  // namespace fla
