#include "model/staging.h"

#include <algorithm>

namespace fla {

Staging::Staging(Device device)
    : device_(device),
      turns_{Turn{{}, Fence(device)}, Turn{{}, Fence(device)}, Turn{{}, Fence(device)},
             Turn{{}, Fence(device)}} {}

char* Staging::Fill(size_t bytes) {
  current_ = (current_ + 1) % turns_.size();
  Turn& turn = turns_[current_];
  turn.copied.Wait();
  if (turn.memory.size() < bytes) {
    turn.memory = HostBuffer(device_, std::max(bytes, 2 * turn.memory.size()));
  }
  return turn.memory.data();
}

void Staging::Upload(Stream& stream, void* device_target, size_t bytes) {
  Turn& turn = turns_[current_];
  stream.CopyToDevice(device_target, turn.memory.data(), bytes);
  turn.copied.Record(stream);
}

}  // namespace fla
