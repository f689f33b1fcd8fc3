// The GPU's versions of kernels/decode.h, for sm_80 and newer.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/decode.h"

namespace fla::cuda {

int MaxDecodeLinearRows(Stream& stream);
bool DecodeLinear(Stream& stream, const DecodeLinearArgs& args);
bool PrepareStep(Stream& stream, const PrepareStepArgs& args);

// Whether there is a kernel for it: what the functions return.
bool HasDecodeLinear(const DecodeLinearArgs& args);
bool HasPrepareStep(const PrepareStepArgs& args);

// The same on a bare CUDA stream. `chained`: see LaunchChained. Two kernels make up DecodeLinear,
// LaunchStreamLinear (Hopper, kPlain) up to kMaxStreamLinearRows rows.
inline constexpr int kMaxStreamLinearRows = 64;
bool LaunchDecodeLinear(const DecodeLinearArgs& args, cudaStream_t stream, bool chained);
bool LaunchStreamLinear(const DecodeLinearArgs& args, cudaStream_t stream, bool chained);
bool LaunchPrepareStep(const PrepareStepArgs& args, cudaStream_t stream, bool chained);

}  // namespace fla::cuda
