#include "model/weights.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "kernels/linear_weight.h"

namespace fla {
namespace {

constexpr size_t kMostProblems = 100;

void RequireHeld(const WeightReader::DTypes& dtypes) {
  const auto [activations, projections] = dtypes;
  if (activations != DType::kF32 && activations != DType::kBF16) {
    throw std::invalid_argument(std::string("weights can be held as f32 or bf16, got ") +
                                NameOf(activations));
  }
  if (projections != activations &&
      (projections != DType::kF8E4M3 || activations != DType::kBF16)) {
    throw std::invalid_argument(std::string("beside ") + NameOf(activations) +
                                " activations, projections cannot be " + NameOf(projections));
  }
}

}  // namespace

WeightReader::WeightReader(const Checkpoint& checkpoint, Stream& stream, DTypes dtypes,
                           std::function<void(double)> progress)
    : checkpoint_(checkpoint),
      stream_(&stream),
      dtypes_(dtypes),
      progress_(std::move(progress)),
      transfer_(stream.device().is_cuda()) {
  RequireHeld(dtypes);
}

WeightReader::WeightReader(const Checkpoint& checkpoint, DTypes dtypes,
                           std::vector<std::string>& problems)
    : checkpoint_(checkpoint), problems_(&problems), dtypes_(dtypes), transfer_(false) {
  RequireHeld(dtypes);
}

void WeightReader::Report(const std::string& problem) const {
  if (problems_ == nullptr) throw std::runtime_error(problem);
  problems_->push_back(problem);
  if (problems_->size() >= kMostProblems) throw TooManyProblems();
}

const StoredTensor* WeightReader::Find(const std::string& name, const std::vector<int64_t>& shape) {
  const auto found = checkpoint_.tensors().find(name);
  if (found == checkpoint_.tensors().end()) {
    Report(checkpoint_.folder().string() + ": tensor " + name + " of shape " + ShapeText(shape) +
           " is missing");
    return nullptr;
  }
  const StoredTensor& tensor = found->second;
  const bool first = taken_.insert(name).second;
  if (tensor.shape != shape) {
    Report(tensor.file() + ": tensor " + name + ": wanted shape " + ShapeText(shape) + ", got " +
           ShapeText(tensor.shape));
    return nullptr;
  }
  if (first) parameters_ += tensor.elements;
  return &tensor;
}

void* WeightReader::Allocate(int64_t bytes) {
  bytes_ += bytes;
  if (stream_ == nullptr) return nullptr;
  memory_.emplace_back(stream_->device(), static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  return memory_.back().data();
}

Matrix WeightReader::Place(int64_t rows, int64_t cols, DType dtype) {
  if (dtype == DType::kF8E4M3) {
    if (stream_ == nullptr || HoldsFp8(stream_->device(), cols)) {
      Matrix weight = {Allocate(rows * cols), dtype, rows, cols, cols};
      auto* const scales =
          static_cast<float*>(Allocate(rows * static_cast<int64_t>(sizeof(float))));
      weight.scales = scales;
      if (stream_ != nullptr) scales_.push_back({std::vector<float>(rows, 1.0f), scales});
      return weight;
    }
    dtype = DType::kBF16;
  }
  const auto bytes = static_cast<int64_t>(rows * cols * SizeOf(dtype));
  const auto packed_bytes =
      stream_ == nullptr
          ? 0
          : static_cast<int64_t>(PackedLinearBytes(stream_->device(), dtype, rows, cols));
  Matrix weight = {Allocate(std::max(bytes, packed_bytes)), dtype, rows, cols, cols};
  weight.packed = packed_bytes > 0;
  return weight;
}

Matrix WeightReader::PackRows(const std::vector<Block>& blocks, int64_t cols, DType dtype) {
  int64_t rows = 0;
  std::vector<TensorTransfer::Block> stored;
  for (const Block& block : blocks) {
    rows += block.rows;
    stored.push_back(
        {block.name.empty() ? nullptr : Find(block.name, {block.rows, cols}), block.rows});
  }
  const Matrix weight = Place(rows, cols, dtype);
  if (stream_ == nullptr) return weight;
  const bool fp8 = dtype == DType::kF8E4M3;
  if (weight.packed) {
    transfer_.AddPacked(stored, cols, weight.dtype, fp8,
                        LinearPacking(stream_->device(), weight.dtype, rows, cols, weight.data));
    return weight;
  }
  char* target = static_cast<char*>(weight.data);
  float* scales = weight.dtype == DType::kF8E4M3 ? scales_.back().values.data() : nullptr;
  for (const auto& [tensor, block_rows] : stored) {
    const int64_t bytes = block_rows * cols * static_cast<int64_t>(SizeOf(weight.dtype));
    if (tensor != nullptr) {
      transfer_.Add(*tensor, weight.dtype, target, {fp8 ? cols : 0, scales});
    } else {
      stream_->Zero(target, static_cast<size_t>(bytes));
    }
    target += bytes;
    if (scales != nullptr) scales += block_rows;
  }
  return weight;
}

Matrix WeightReader::TakeTransposed(const std::string& name, int64_t rows, int64_t cols) {
  const StoredTensor* const tensor = Find(name, {rows, cols});
  if (dtypes_.projections == DType::kF8E4M3) {
    Report(checkpoint_.folder().string() + ": tensor " + name +
           ": wanted rows that are outputs, which fp8_e4m3 has its scales for, got columns: "
           "weight_dtype of this model can be its dtype");
  }
  const Matrix weight = Place(cols, rows, dtypes_.activations);
  if (stream_ == nullptr) return weight;
  transfer_.Add(*tensor, weight.dtype, weight.data);
  to_transpose_.push_back({{weight.data, weight.dtype, rows, cols, cols}, weight.packed});
  return weight;
}

Matrix WeightReader::Table(const std::string& name, int64_t rows, int64_t cols) {
  const StoredTensor* const tensor = Find(name, {rows, cols});
  const auto bytes = static_cast<int64_t>(rows * cols * SizeOf(dtypes_.activations));
  const Matrix table = {Allocate(bytes), dtypes_.activations, rows, cols, cols};
  if (stream_ != nullptr) transfer_.Add(*tensor, table.dtype, table.data);
  return table;
}

Matrix WeightReader::ForLinear(const Matrix& table) {
  if (stream_ == nullptr) return table;
  const size_t bytes = PackedLinearBytes(stream_->device(), table.dtype, table.rows, table.cols);
  if (bytes == 0) return table;
  Matrix weight = table;
  weight.data = Allocate(static_cast<int64_t>(bytes));
  weight.packed = true;
  to_pack_.push_back({table, weight.data});
  return weight;
}

// In its own memory, by way of the host: no weight needs its memory twice on the device.
void WeightReader::Transpose(const Matrix& stored, bool packed) {
  const auto size = static_cast<int64_t>(SizeOf(stored.dtype));
  std::vector<char> from(static_cast<size_t>(stored.rows * stored.cols * size)), to(from.size());
  stream_->CopyToHost(from.data(), stored.data, from.size());
  stream_->Synchronize();
  for (int64_t row = 0; row < stored.rows; ++row) {
    for (int64_t col = 0; col < stored.cols; ++col) {
      std::memcpy(&to[(col * stored.rows + row) * size], &from[(row * stored.cols + col) * size],
                  static_cast<size_t>(size));
    }
  }
  if (packed) {
    const Matrix rows = {to.data(), stored.dtype, stored.cols, stored.rows, stored.rows};
    PackLinear(stream_->device(), rows, stored.data);
    return;
  }
  stream_->CopyToDevice(stored.data, to.data(), to.size());
  stream_->Synchronize();
}

const float* WeightReader::Concatenate(const std::vector<Piece>& pieces) {
  int64_t elements = 0;
  std::vector<const StoredTensor*> tensors;
  for (const Piece& piece : pieces) {
    tensors.push_back(Find(piece.name, piece.shape));
    if (tensors.back() != nullptr) elements += tensors.back()->elements;
  }
  auto* const values =
      static_cast<float*>(Allocate(elements * static_cast<int64_t>(sizeof(float))));
  if (stream_ == nullptr) return values;
  float* target = values;
  for (const StoredTensor* tensor : tensors) {
    transfer_.Add(*tensor, DType::kF32, target);
    target += tensor->elements;
  }
  return values;
}

const float* WeightReader::Constant(const std::vector<float>& values) {
  const size_t bytes = values.size() * sizeof(float);
  auto* const target = static_cast<float*>(Allocate(static_cast<int64_t>(bytes)));
  if (stream_ == nullptr) return target;
  stream_->CopyToDevice(target, values.data(), bytes);
  stream_->Synchronize();
  return target;
}

bool WeightReader::Has(const std::string& name) const {
  return checkpoint_.tensors().count(name) != 0;
}

void WeightReader::Skip(const std::string& name) { taken_.insert(name); }

void WeightReader::Finish() {
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    if (taken_.count(name) == 0) {
      Report(tensor.file() + ": tensor " + name + " of shape " + ShapeText(tensor.shape) +
             " has no place in this model");
    }
  }
  if (stream_ == nullptr) return;
  transfer_.Run(*stream_, progress_);
  for (const auto& [values, target] : scales_) {
    stream_->CopyToDevice(target, values.data(), values.size() * sizeof(float));
  }
  stream_->Synchronize();
  scales_.clear();
  for (const auto& [stored, packed] : to_transpose_) Transpose(stored, packed);
  // Only a CPU packs: its memory is the host's.
  for (const auto& [rows, target] : to_pack_) PackLinear(stream_->device(), rows, target);
}

std::vector<Buffer> WeightReader::ReleaseMemory() { return std::move(memory_); }

}  // namespace fla
