// Moves a checkpoint's tensors to where kernels read them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "kernels/device.h"
#include "kernels/linear_weight.h"
#include "model/safetensors.h"

namespace fla {

// Collects what is to be moved, and then moves all of it at once: in the order of the files, by
// several threads that read and convert pieces of a few megabytes. On a CPU what needs no
// conversion is copied from the mapped file right into its place, and the panels of a Linear's
// weight are packed right from the file; on a GPU pieces go through page-locked memory while those
// before are copied.
//
// Thread safety: one thread at a time, that which owns the stream.
class TensorTransfer {
 public:
  // staged: through page-locked memory, as GPUs want it; else targets are memory of the host.
  explicit TensorTransfer(bool staged) : staged_(staged) {}

  // Where not empty: each row of `cols` elements becomes eight-bit weights (kernels/fp8.h), held as
  // kF8E4M3, their scales as f32 in host memory, or else as the bf16 numbers that these are. Run
  // throws where a row has no scale.
  struct Fp8Rows {
    int64_t cols = 0;
    float* scales = nullptr;  // of the first element's row and on
  };

  // `tensor` must live until Run has returned. `target`: device memory for its elements as `held`.
  void Add(const StoredTensor& tensor, DType held, void* target) { Add(tensor, held, target, {}); }
  void Add(const StoredTensor& tensor, DType held, void* target, Fp8Rows fp8);

  // Rows of a Linear's weight: all of a stored tensor's, or, without one, zeros.
  struct Block {
    const StoredTensor* tensor;
    int64_t rows;
  };
  // The blocks one below the other, of `cols` elements a row, as `held`, to where `packing` writes.
  // Not for a staged transfer. fp8: as the bf16 numbers that its rows are as eight-bit weights.
  void AddPacked(const std::vector<Block>& blocks, int64_t cols, DType held, bool fp8,
                 const LinearPacking& packing);

  // `progress` (may be empty) hears the fraction of bytes that are there, on the calling thread;
  // what it throws ends the transfer. Throws std::runtime_error where a file cannot be read.
  void Run(Stream& stream, const std::function<void(double)>& progress);

 private:
  // Consecutive elements of one tensor; without one, zeros.
  struct Segment {
    const StoredTensor* tensor;
    int64_t first;
    int64_t count;

    int64_t offset() const { return tensor->offset + first * SizeOf(tensor->dtype); }
    int64_t stored_bytes() const { return tensor == nullptr ? 0 : count * SizeOf(tensor->dtype); }
  };
  // What is read at once, one segment after the other.
  struct Piece {
    std::vector<Segment> segments;
    DType held;
    char* target;  // on the device; null for a panel
    Fp8Rows fp8;
    const LinearPacking* packing = nullptr;  // of a panel
    int64_t panel = 0;

    int64_t stored_bytes() const;
    int64_t held_bytes() const;
    // One segment whose elements lie in the file as they are held, aligned.
    bool IsOneAsStored() const;
  };
  struct Job {
    const Piece* piece;
    char* target;  // on the host; null for a panel
  };
  class Workers;

  void RunThroughStaging(Stream& stream, Workers& workers);

  bool staged_;
  std::vector<Piece> pieces_;
  std::deque<LinearPacking> packings_;
};

}  // namespace fla
