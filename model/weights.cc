#include "model/weights.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace fla {
namespace {

template <typename Bits>
Bits LoadUnaligned(const char* source, int64_t index) {
  Bits bits;
  std::memcpy(&bits, source + index * static_cast<int64_t>(sizeof bits), sizeof bits);
  return bits;
}

float LoadFloat(const char* source, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return LoadUnaligned<float>(source, index);
    case DType::kF16:
      return HalfToFloat(LoadUnaligned<uint16_t>(source, index));
    case DType::kBF16: {
      BFloat16 value;
      value.bits = LoadUnaligned<uint16_t>(source, index);
      return static_cast<float>(value);
    }
  }
  return 0.0f;
}

// Appends a stored tensor's elements in another dtype (f32 or bf16).
void Convert(const StoredTensor& tensor, DType dtype, char* target) {
  if (tensor.dtype == dtype) {
    std::memcpy(target, tensor.data, tensor.elements * SizeOf(dtype));
  } else if (dtype == DType::kF32) {
    auto* out = reinterpret_cast<float*>(target);
    for (int64_t i = 0; i < tensor.elements; ++i) out[i] = LoadFloat(tensor.data, tensor.dtype, i);
  } else {
    auto* out = reinterpret_cast<BFloat16*>(target);
    for (int64_t i = 0; i < tensor.elements; ++i) {
      out[i] = BFloat16(LoadFloat(tensor.data, tensor.dtype, i));
    }
  }
}

}  // namespace

WeightReader::WeightReader(const Checkpoint& checkpoint, Stream& stream, DType dtype,
                           std::function<void(double)> progress)
    : checkpoint_(checkpoint), stream_(stream), dtype_(dtype), progress_(std::move(progress)) {
  if (dtype != DType::kF32 && dtype != DType::kBF16) {
    throw std::invalid_argument(std::string("weights can be held as f32 or bf16, got ") +
                                NameOf(dtype));
  }
}

const StoredTensor& WeightReader::Find(const std::string& name, const std::vector<int64_t>& shape) {
  const auto found = checkpoint_.tensors().find(name);
  if (found == checkpoint_.tensors().end()) {
    throw std::runtime_error(checkpoint_.folder().string() + ": tensor " + name + " of shape " +
                             ShapeText(shape) + " is missing");
  }
  const StoredTensor& tensor = found->second;
  if (tensor.shape != shape) {
    throw std::runtime_error(tensor.file + ": tensor " + name + ": wanted shape " +
                             ShapeText(shape) + ", got " + ShapeText(tensor.shape));
  }
  if (taken_.insert(name).second) {
    parameters_ += tensor.elements;
    stored_bytes_taken_ += tensor.elements * static_cast<int64_t>(SizeOf(tensor.dtype));
    if (progress_) {
      progress_(static_cast<double>(stored_bytes_taken_) /
                static_cast<double>(std::max<int64_t>(checkpoint_.bytes(), 1)));
    }
  }
  return tensor;
}

void* WeightReader::Upload(const std::vector<char>& host) {
  memory_.emplace_back(stream_.device(), std::max<size_t>(host.size(), 1));
  stream_.CopyToDevice(memory_.back().data(), host.data(), host.size());
  stream_.Synchronize();
  bytes_ += static_cast<int64_t>(host.size());
  return memory_.back().data();
}

Matrix WeightReader::PackRows(const std::vector<Block>& blocks, int64_t cols) {
  int64_t rows = 0;
  for (const Block& block : blocks) rows += block.rows;
  const int64_t row_bytes = cols * static_cast<int64_t>(SizeOf(dtype_));
  std::vector<char> host(rows * row_bytes, 0);
  char* target = host.data();
  for (const Block& block : blocks) {
    if (!block.name.empty()) Convert(Find(block.name, {block.rows, cols}), dtype_, target);
    target += block.rows * row_bytes;
  }
  return {Upload(host), dtype_, rows, cols, cols};
}

const float* WeightReader::Concatenate(const std::vector<Piece>& pieces) {
  std::vector<char> host;
  for (const Piece& piece : pieces) {
    const StoredTensor& tensor = Find(piece.name, piece.shape);
    const size_t at = host.size();
    host.resize(at + tensor.elements * sizeof(float));
    Convert(tensor, DType::kF32, host.data() + at);
  }
  return static_cast<const float*>(Upload(host));
}

const float* WeightReader::Constant(const std::vector<float>& values) {
  std::vector<char> host(values.size() * sizeof(float));
  std::memcpy(host.data(), values.data(), host.size());
  return static_cast<const float*>(Upload(host));
}

bool WeightReader::Has(const std::string& name) const {
  return checkpoint_.tensors().count(name) != 0;
}

void WeightReader::Skip(const std::string& name) { taken_.insert(name); }

void WeightReader::Finish() const {
  for (const auto& [name, tensor] : checkpoint_.tensors()) {
    if (taken_.count(name) == 0) {
      throw std::runtime_error(tensor.file + ": tensor " + name + " of shape " +
                               ShapeText(tensor.shape) + " has no place in this model");
    }
  }
}

std::vector<Buffer> WeightReader::ReleaseMemory() { return std::move(memory_); }

}  // namespace fla
