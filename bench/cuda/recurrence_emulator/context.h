// Stands in for kernels/cuda/context.h under the emulator.
#pragma once

#include <cuda_runtime.h>

#include "kernels/device.h"

namespace fla {

struct Stream::CudaContext {
  int num_multiprocessors = 2;  // a few hundred tokens are many
  bool can_chain = true, chained = true;
};

namespace cuda {

inline cudaStream_t MakeCurrent(Stream&) { return nullptr; }

}  // namespace cuda
}  // namespace fla
