#include "kernels/cuda/linear_plans.h"

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

LinearPlan MakePlan(cublasLtHandle_t handle, size_t workspace_bytes, const LinearShape& shape) {
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
  Check(cublasLtMatrixLayoutInit(&plan.weight, CudaType(shape.dtype), shape.in, shape.out,
                                 shape.weight_stride),
        "cublasLtMatrixLayoutInit");
  Check(cublasLtMatrixLayoutInit(&plan.x, CudaType(shape.dtype), shape.in, shape.tokens,
                                 shape.x_stride),
        "cublasLtMatrixLayoutInit");
  Check(cublasLtMatrixLayoutInit(&plan.out, CudaType(shape.out_dtype), shape.out, shape.tokens,
                                 shape.out_stride),
        "cublasLtMatrixLayoutInit");

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
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, &plan.operation, &plan.weight, &plan.x, &plan.out,
                                     &plan.out, &preference, 1, &found, &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) Check(status, "cublasLtMatmulAlgoGetHeuristic");
  plan.supported =
      status == CUBLAS_STATUS_SUCCESS && count > 0 && found.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = found.algo;
  return plan;
}

}  // namespace

LinearPlan& LinearPlans::Find(cublasLtHandle_t handle, size_t workspace_bytes,
                              const LinearShape& shape) {
  if (const auto found = plans_.find(shape); found != plans_.end()) return found->second;
  if (plans_.size() >= kMaxPlans) plans_.clear();
  return plans_.emplace(shape, MakePlan(handle, workspace_bytes, shape)).first->second;
}

}  // namespace fla::cuda
