// Which cuBLASLt algorithm computes a Linear of given shapes, decided once a shape: by measuring
// while a Tuning lives, else by cuBLASLt's own guess.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla::cuda {

// What the choice of an algorithm depends on.
struct LinearShape {
  enum class Bias : uint8_t { kNone, kF32, kBF16 };

  DType dtype;  // of x and weight
  DType out_dtype;
  Bias bias;
  int8_t x_alignment, weight_alignment, out_alignment;  // bytes, a power of two, at most 16
  int64_t tokens, in, out;
  int64_t x_stride, weight_stride, out_stride;

  friend auto operator<=>(const LinearShape&, const LinearShape&) = default;
};

// cuBLASLt's view of a shape. It is column-major: out^T [out, T] = weight [out, in] x^T [in, T].
struct LinearPlan {
  bool supported = false;
  bool measured = false;
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t weight, x, out;
  cublasLtMatmulAlgo_t algorithm;
};

// Thread safety: one thread at a time, as the stream that owns it.
class LinearPlans {
 public:
  // The plan for `shape`, from memory or from cuBLASLt's heuristic. `supported` is false where
  // cuBLASLt knows no algorithm. Never synchronises. The reference is good until the next call.
  LinearPlan& Find(cublasLtHandle_t handle, size_t workspace_bytes, const LinearShape& shape);

  // Runs what cuBLASLt proposes for the plan's shape a few times each, the weights not in the
  // cache, and keeps the fastest. `run` queues the product by the algorithm in `plan`.
  // Synchronises.
  void Measure(cublasLtHandle_t handle, size_t workspace_bytes, const LinearShape& shape,
               LinearPlan& plan, cudaStream_t stream, const std::function<cublasStatus_t()>& run);

  // Frees what Measure needs between calls.
  void EndMeasuring() { flushed_ = Buffer(); }

 private:
  std::map<LinearShape, LinearPlan> plans_;
  // Of f32: one algorithm for all numbers of tokens, so that a row's bits do not depend on them.
  std::map<LinearShape, cublasLtMatmulAlgo_t> row_invariant_;
  Buffer flushed_;  // written to empty the cache
};

}  // namespace fla::cuda
