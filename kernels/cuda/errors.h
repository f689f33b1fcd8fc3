// Turns CUDA and cuBLASLt status codes into DeviceError.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

namespace fla::cuda {

// Throws DeviceError "CALL: what CUDA says" unless `status` is success.
void Check(cudaError_t status, const char* call);
void Check(cublasStatus_t status, const char* call);

// Call after every launch: throws DeviceError that names the kernel if the launch was refused.
// (A fault inside the kernel shows at a later call.)
void CheckLaunch(const char* kernel);

}  // namespace fla::cuda
