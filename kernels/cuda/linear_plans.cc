#include "kernels/cuda/linear_plans.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/errors.h"

namespace fla::cuda {
namespace {

// More than a server meets: prompts come in every length, the rest of a shape in few variants.
constexpr size_t kMaxPlans = 32768;

cudaDataType_t CudaType(DType dtype) { return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF; }

template <typename T>
void SetAttribute(LinearPlan& plan, cublasLtMatmulDescAttributes_t attribute, T value) {
  Check(cublasLtMatmulDescSetAttribute(&plan.operation, attribute, &value, sizeof(value)),
        "cublasLtMatmulDescSetAttribute");
}

template <typename T>
void SetPreference(cublasLtMatmulPreferenceOpaque_t& preference,
                   cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  Check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
}

// Tokens at which the algorithm of f32 products is chosen.
constexpr int64_t kInvariantTokens = 64;
constexpr int kProposals = 12;                     // that are measured
constexpr int kMeasurements = 3;                   // of each
constexpr size_t kFlushBytes = size_t{128} << 20;  // more than any cache

cublasLtMatrixLayoutOpaque_t Layout(DType dtype, int64_t rows, int64_t cols, int64_t stride) {
  cublasLtMatrixLayoutOpaque_t layout;
  Check(cublasLtMatrixLayoutInit(&layout, CudaType(dtype), rows, cols, stride),
        "cublasLtMatrixLayoutInit");
  return layout;
}

// A plan but for its algorithm.
LinearPlan Describe(const LinearShape& shape) {
  LinearPlan plan = {};
  // Not one of the tf32 or "fast" modes: f32 products stay f32.
  Check(cublasLtMatmulDescInit(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescInit");
  SetAttribute(plan, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  SetAttribute(plan, CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  if (shape.bias != LinearShape::Bias::kNone) {
    const bool is_f32 = shape.bias == LinearShape::Bias::kF32;
    SetAttribute(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    SetAttribute(plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, is_f32 ? CUDA_R_32F : CUDA_R_16BF);
  }
  plan.weight = Layout(shape.dtype, shape.in, shape.out, shape.weight_stride);
  plan.x = Layout(shape.dtype, shape.in, shape.tokens, shape.x_stride);
  plan.out = Layout(shape.out_dtype, shape.out, shape.tokens, shape.out_stride);
  return plan;
}

// What cuBLASLt proposes, the best first, at most `count`.
std::vector<cublasLtMatmulAlgo_t> Propose(cublasLtHandle_t handle, size_t workspace_bytes,
                                          const LinearShape& shape, LinearPlan& plan, int count) {
  cublasLtMatmulPreferenceOpaque_t preference;
  Check(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  SetPreference<uint64_t>(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  SetPreference<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                          shape.weight_alignment);
  SetPreference<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                          shape.x_alignment);
  SetPreference<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                          shape.out_alignment);
  SetPreference<uint32_t>(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                          shape.out_alignment);
  if (shape.dtype == DType::kF32) {
    // No splitting of sums, whose parts would depend on the number of tokens.
    SetPreference<uint32_t>(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                            CUBLASLT_REDUCTION_SCHEME_NONE);
  }
  std::vector<cublasLtMatmulHeuristicResult_t> found(count);
  int num_found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, &plan.operation, &plan.weight, &plan.x, &plan.out,
                                     &plan.out, &preference, count, found.data(), &num_found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) Check(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < num_found && status == CUBLAS_STATUS_SUCCESS; ++i) {
    if (found[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(found[i].algo);
  }
  return algorithms;
}

LinearPlan MakePlan(cublasLtHandle_t handle, size_t workspace_bytes, const LinearShape& shape) {
  LinearPlan plan = Describe(shape);
  const std::vector<cublasLtMatmulAlgo_t> found = Propose(handle, workspace_bytes, shape, plan, 1);
  plan.supported = !found.empty();
  if (plan.supported) plan.algorithm = found.front();
  return plan;
}

// Milliseconds of the work that `run` queues, with nothing of its operands in the cache.
float Milliseconds(cudaEvent_t begin, cudaEvent_t end, cudaStream_t stream, const Buffer& flushed,
                   const std::function<cublasStatus_t()>& run) {
  Check(cudaMemsetAsync(flushed.data(), 0, flushed.size(), stream), "cudaMemsetAsync");
  Check(cudaEventRecord(begin, stream), "cudaEventRecord");
  if (run() != CUBLAS_STATUS_SUCCESS) return 1e9f;
  Check(cudaEventRecord(end, stream), "cudaEventRecord");
  Check(cudaEventSynchronize(end), "cudaEventSynchronize");
  float milliseconds = 0;
  Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  return milliseconds;
}

}  // namespace

LinearPlan& LinearPlans::Find(cublasLtHandle_t handle, size_t workspace_bytes,
                              const LinearShape& shape) {
  if (const auto found = plans_.find(shape); found != plans_.end()) return found->second;
  if (plans_.size() >= kMaxPlans) plans_.clear();
  LinearPlan plan = MakePlan(handle, workspace_bytes, shape);
  if (shape.dtype == DType::kF32) {
    LinearShape any = shape;
    any.tokens = kInvariantTokens;
    auto invariant = row_invariant_.find(any);
    if (invariant == row_invariant_.end()) {
      const LinearPlan at_reference = MakePlan(handle, workspace_bytes, any);
      if (at_reference.supported) {
        invariant = row_invariant_.emplace(any, at_reference.algorithm).first;
      }
    }
    cublasLtMatmulHeuristicResult_t checked = {};
    if (invariant != row_invariant_.end() &&
        cublasLtMatmulAlgoCheck(handle, &plan.operation, &plan.weight, &plan.x, &plan.out,
                                &plan.out, &invariant->second, &checked) == CUBLAS_STATUS_SUCCESS &&
        checked.workspaceSize <= workspace_bytes) {
      plan.algorithm = invariant->second;
      plan.supported = true;
    }
  }
  return plans_.emplace(shape, plan).first->second;
}

void LinearPlans::Measure(cublasLtHandle_t handle, size_t workspace_bytes, const LinearShape& shape,
                          LinearPlan& plan, cudaStream_t stream,
                          const std::function<cublasStatus_t()>& run) {
  plan.measured = true;
  if (!plan.supported || shape.dtype == DType::kF32) return;
  const std::vector<cublasLtMatmulAlgo_t> proposals =
      Propose(handle, workspace_bytes, shape, plan, kProposals);
  if (proposals.size() < 2) return;
  int device = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  if (flushed_.size() == 0) flushed_ = Buffer({Device::Kind::kCuda, device}, kFlushBytes);
  cudaEvent_t begin = nullptr, end = nullptr;
  Check(cudaEventCreate(&begin), "cudaEventCreate");
  Check(cudaEventCreate(&end), "cudaEventCreate");
  cublasLtMatmulAlgo_t best = plan.algorithm;
  float least = 1e9f;
  for (const cublasLtMatmulAlgo_t& proposal : proposals) {
    plan.algorithm = proposal;
    float milliseconds = Milliseconds(begin, end, stream, flushed_, run);  // warms up
    if (milliseconds > 4 * least) continue;
    for (int i = 0; i < kMeasurements; ++i) {
      milliseconds = std::min(milliseconds, Milliseconds(begin, end, stream, flushed_, run));
    }
    if (milliseconds < least) {
      least = milliseconds;
      best = proposal;
    }
  }
  plan.algorithm = best;
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

}  // namespace fla::cuda
