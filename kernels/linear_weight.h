// A Linear's weight in the order in which the device's Linear reads it fastest.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// Bytes that a weight [rows, cols] takes in that order, which is then to be used; 0 where the
// device's Linear reads rows. May measure and allocate: for the time of a load.
size_t PackedLinearBytes(Device device, DType dtype, int64_t rows, int64_t cols);

// Whether the device's Linear, DecodeLinear and LinearSwiGlu read a weight of so many columns in
// eight bits, its rows by PackFp8 (kernels/fp8.h), contiguous, aligned to 16 bytes.
bool HoldsFp8(Device device, int64_t cols);

// Writes a weight [rows, cols] in that order, panel by panel: so many consecutive rows each but the
// last. What it leaves is the Matrix for Linear, `packed`, and for nothing else.
//
// Thread safety: any threads may pack, each panel one of them.
class LinearPacking {
 public:
  // `target`: PackedLinearBytes (not 0) of the device's memory.
  LinearPacking(Device device, DType dtype, int64_t rows, int64_t cols, void* target);

  int64_t panels() const;
  int64_t FirstRow(int64_t panel) const;
  int64_t NumRows(int64_t panel) const;
  // `rows`: those of the panel, contiguous in host memory.
  void Pack(int64_t panel, const void* rows) const;

 private:
  int64_t rows_;
  void* target_;
};

// All panels of `weight`, contiguous in host memory.
Matrix PackLinear(Device device, Matrix weight, void* target);

}  // namespace fla
