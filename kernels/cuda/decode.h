// The GPU's versions of kernels/decode.h, for sm_80 and newer.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/decode.h"

namespace fla::cuda {

int MaxDecodeLinearRows(Stream& stream);
bool DecodeLinear(Stream& stream, const DecodeLinearArgs& args);
bool PrepareStep(Stream& stream, const PrepareStepArgs& args);
// DecodeLinear by LaunchStreamLinear alone.
bool StreamLinear(Stream& stream, const DecodeLinearArgs& args);

// Whether there is a kernel for it: what the functions return.
bool HasDecodeLinear(const DecodeLinearArgs& args);
bool HasPrepareStep(const PrepareStepArgs& args);

// The same on a bare CUDA stream. `chained`: see LaunchChained. Two kernels make up DecodeLinear,
// LaunchStreamLinear (Hopper; beside bf16 weights kPlain) up to kMaxStreamLinearRows rows.
inline constexpr int kMaxStreamLinearRows = 64;
bool LaunchDecodeLinear(const DecodeLinearArgs& args, cudaStream_t stream, bool chained);
// With memory for its input where weights are in eight bits: so many bytes, 0 where it has none.
size_t StreamLinearScratch(const DecodeLinearArgs& args);
bool LaunchStreamLinear(const DecodeLinearArgs& args, void* scratch, cudaStream_t stream,
                        bool chained);
bool LaunchPrepareStep(const PrepareStepArgs& args, cudaStream_t stream, bool chained);

}  // namespace fla::cuda
