// From stored tensors to what kernels read: taken by name, dtype and shape, converted, packed, on
// the device.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "model/safetensors.h"
#include "model/tensor_transfer.h"

namespace fla {

// Ends a look at a checkpoint that fits nowhere.
class TooManyProblems : public std::runtime_error {
 public:
  TooManyProblems() : std::runtime_error("too many problems") {}
};

// Takes tensors out of a checkpoint. A tensor that is missing or has another shape is a
// std::runtime_error "file: tensor: wanted, got"; one that nobody took is one in Finish.
//
// Thread safety: one thread at a time.
class WeightReader {
 public:
  struct DTypes {
    DType activations = DType::kF32;  // and of what is small: f32 or bf16
    DType projections = DType::kF32;  // the same, or kF8E4M3 beside bf16
  };

  // Matrices become dtypes.activations or, as projections, what those say; vectors f32. `progress`
  // (may be empty) hears the fraction of the checkpoint's bytes that is there. `checkpoint` must
  // live until Finish has returned.
  WeightReader(const Checkpoint& checkpoint, Stream& stream, DTypes dtypes,
               std::function<void(double)> progress);

  // Reads and allocates nothing: every pointer is null. Appends to `problems` what would be thrown;
  // throws TooManyProblems at the hundredth.
  WeightReader(const Checkpoint& checkpoint, DTypes dtypes, std::vector<std::string>& problems);

  // What the following return is device memory whose contents are there after Finish.

  // Part of a packed matrix: a stored tensor of `rows` x `cols`, or, without a name, zero rows.
  struct Block {
    std::string name;
    int64_t rows;
  };
  // A projection: the blocks one below the other, [sum of rows, cols], in the order and the dtype
  // in which the device's Linear reads them fastest: for Linear and its kin alone. Eight-bit
  // weights are bf16 numbers where it does not read bytes.
  Matrix PackRows(const std::vector<Block>& blocks, int64_t cols) {
    return PackRows(blocks, cols, dtypes_.projections);
  }
  Matrix TakeProjection(const std::string& name, int64_t rows, int64_t cols) {
    return PackRows({{name, rows}}, cols);
  }
  // A smaller matrix, likewise for Linear.
  Matrix Take(const std::string& name, int64_t rows, int64_t cols) {
    return PackRows({{name, rows}}, cols, dtypes_.activations);
  }

  // A projection that is stored [rows, cols], as its transpose, [cols, rows]: not in eight bits.
  Matrix TakeTransposed(const std::string& name, int64_t rows, int64_t cols);

  // Rows to look up, and the same table for Linear (a copy where that reads another order).
  Matrix Table(const std::string& name, int64_t rows, int64_t cols);
  Matrix ForLinear(const Matrix& table);

  // Stored tensors of any shape, one after the other: f32.
  struct Piece {
    std::string name;
    std::vector<int64_t> shape;
  };
  const float* Concatenate(const std::vector<Piece>& pieces);
  const float* Vector(const std::string& name, int64_t size) {
    return Concatenate({{name, {size}}});
  }
  // Values that no checkpoint stores, beside those that it does.
  const float* Constant(const std::vector<float>& values);

  bool Has(const std::string& name) const;
  // Takes a tensor that repeats another and is not read.
  void Skip(const std::string& name);

  // Throws if a tensor of the checkpoint was not taken; else reads what was.
  void Finish();

  // The device memory behind everything that was returned; to be kept as long as it is used.
  std::vector<Buffer> ReleaseMemory();
  int64_t parameters() const { return parameters_; }
  int64_t bytes() const { return bytes_; }

 private:
  // Null where it does not fit and that is only noted.
  const StoredTensor* Find(const std::string& name, const std::vector<int64_t>& shape);
  void* Allocate(int64_t bytes);
  void Report(const std::string& problem) const;
  Matrix PackRows(const std::vector<Block>& blocks, int64_t cols, DType dtype);
  // Memory for Linear's weight [rows, cols], to be filled with its rows.
  Matrix Place(int64_t rows, int64_t cols, DType dtype);
  void Transpose(const Matrix& stored, bool packed);

  const Checkpoint& checkpoint_;
  Stream* stream_ = nullptr;                      // null: only looks
  std::vector<std::string>* problems_ = nullptr;  // null: throws
  DTypes dtypes_;
  std::function<void(double)> progress_;
  TensorTransfer transfer_;
  std::set<std::string> taken_;
  struct ToTranspose {
    Matrix stored;  // where its transpose belongs
    bool packed;
  };
  std::vector<ToTranspose> to_transpose_;
  struct Scales {
    std::vector<float> values;  // until Finish
    float* target;
  };
  std::deque<Scales> scales_;
  struct ToPack {
    Matrix rows;
    void* target;
  };
  std::vector<ToPack> to_pack_;
  std::vector<Buffer> memory_;
  int64_t parameters_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace fla
