// The input of a DecodeLinear by weights in eight bits, as tensor cores take it (fp8.cuh).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "kernels/decode.h"

namespace fla::cuda {

// What x becomes: of each kFp8Run inputs the high numbers' bytes, then the low ones', in rows of as
// many bytes as bf16 takes, which is what the matrix says they were. In all a row's are to be
// multiplied by its scale.
struct SplitInput {
  Matrix panels;  // [T, in]
  float* scales;  // [T]
};

bool CanSplitInput(const DecodeLinearArgs& args);
// What it takes, aligned to 16 bytes.
size_t SplitInputBytes(const DecodeLinearArgs& args);
SplitInput LaunchSplitInput(const DecodeLinearArgs& args, void* memory, cudaStream_t stream,
                            bool chained);

}  // namespace fla::cuda
