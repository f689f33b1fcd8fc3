// Moves a checkpoint's tensors to where kernels read them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/device.h"
#include "model/safetensors.h"

namespace fla {

// Collects what is to be moved, and then moves all of it at once: in the order of the files, by
// several threads that read and convert pieces of a few megabytes. On a CPU what needs no
// conversion is read right into its place; on a GPU pieces go through page-locked memory while
// those before are copied.
//
// Thread safety: one thread at a time, that which owns the stream.
class TensorTransfer {
 public:
  // staged: through page-locked memory, as GPUs want it; else targets are memory of the host.
  explicit TensorTransfer(bool staged) : staged_(staged) {}

  // `tensor` must live until Run has returned. `target`: device memory for its elements as `held`.
  void Add(const StoredTensor& tensor, DType held, void* target);

  // `progress` (may be empty) hears the fraction of bytes that are there, on the calling thread;
  // what it throws ends the transfer. Throws std::runtime_error where a file cannot be read.
  void Run(Stream& stream, const std::function<void(double)>& progress);

 private:
  // Consecutive elements of one tensor.
  struct Piece {
    const StoredTensor* tensor;
    DType held;
    int64_t first;
    int64_t count;
    char* target;  // on the device

    int64_t stored_bytes() const { return count * SizeOf(tensor->dtype); }
    int64_t held_bytes() const { return count * static_cast<int64_t>(SizeOf(held)); }
  };
  struct Job {
    const Piece* piece;
    char* target;  // on the host
  };
  class Workers;

  void RunThroughStaging(Stream& stream, Workers& workers);

  bool staged_;
  std::vector<Piece> pieces_;
};

}  // namespace fla
