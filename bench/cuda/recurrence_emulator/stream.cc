// As much of a Stream as ops without scratch memory and copies need under the emulator.
#include "bench/cuda/recurrence_emulator/context.h"

namespace fla {

Buffer::~Buffer() = default;

Stream::Stream(Device device) : device_(device), cuda_(new CudaContext) {}
Stream::~Stream() = default;
void Stream::CudaContextDeleter::operator()(CudaContext* context) const { delete context; }

}  // namespace fla
