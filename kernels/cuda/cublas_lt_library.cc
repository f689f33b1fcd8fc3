// cuBLASLt, loaded when a GPU's stream first wants it: the functions of its header that we call,
// each passed on to the library.
//
// A program that links it pays for its thread-local storage, 94 KB, in the stack of every thread,
// and cannot start threads of smaller stacks, as the metrics' HTTP server has them. Loaded later,
// the library gets that storage per thread that uses it; and a machine without a GPU needs no
// cuBLASLt.
#include <cublasLt.h>
#include <dlfcn.h>

#include <string>

#include "kernels/device.h"

namespace fla::cuda {
namespace {

#define FLA_TEXT_OF(x) #x
#define FLA_TEXT(x) FLA_TEXT_OF(x)
constexpr char kName[] = "libcublasLt.so." FLA_TEXT(CUBLAS_VER_MAJOR);

void* Library() {
  // Where the loader looks; where the toolkit was when this was built; where it mostly is.
  static void* const library = [] {
    const std::string built_with = std::string(FLA_CUDA_LIBRARIES) + "/" + kName;
    const std::string usual = std::string("/usr/local/cuda/lib64/") + kName;
    std::string reasons;
    for (const char* name : {kName, built_with.c_str(), usual.c_str()}) {
      if (void* found = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return found;
      reasons += reasons.empty() ? "" : "; ";
      reasons += dlerror();
    }
    throw DeviceError("cuBLASLt, which a GPU needs (part of the CUDA toolkit): " + reasons);
  }();
  return library;
}

// The library's function of that name and `like`'s type.
template <typename Function>
Function* Find(const char* name, Function* /*like*/) {
  void* const found = dlsym(Library(), name);
  if (found == nullptr) throw DeviceError(std::string(kName) + ": has no " + name);
  return reinterpret_cast<Function*>(found);
}

}  // namespace
}  // namespace fla::cuda

#define FLA_FORWARD(name, ...)                                 \
  static auto* const function = fla::cuda::Find(#name, &name); \
  return function(__VA_ARGS__)

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { FLA_FORWARD(cublasLtCreate, handle); }

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { FLA_FORWARD(cublasLtDestroy, handle); }

const char* cublasLtGetStatusString(cublasStatus_t status) {
  FLA_FORWARD(cublasLtGetStatusString, status);
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t layout, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld) {
  FLA_FORWARD(cublasLtMatrixLayoutInit_internal, layout, size, type, rows, cols, ld);
}

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t desc, size_t size,
                                               cublasComputeType_t compute, cudaDataType_t scale) {
  FLA_FORWARD(cublasLtMatmulDescInit_internal, desc, size, compute, scale);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t size) {
  FLA_FORWARD(cublasLtMatmulDescSetAttribute, desc, attribute, value, size);
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t preference,
                                                     size_t size) {
  FLA_FORWARD(cublasLtMatmulPreferenceInit_internal, preference, size);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t size) {
  FLA_FORWARD(cublasLtMatmulPreferenceSetAttribute, preference, attribute, value, size);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  FLA_FORWARD(cublasLtMatmulAlgoGetHeuristic, handle, desc, a, b, c, d, preference, wanted, results,
              found);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm,
                                       cublasLtMatmulHeuristicResult_t* result) {
  FLA_FORWARD(cublasLtMatmulAlgoCheck, handle, desc, a, b, c, d, algorithm, result);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  FLA_FORWARD(cublasLtMatmul, handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d,
              d_layout, algorithm, workspace, workspace_bytes, stream);
}

}  // extern "C"
