#include "server/slot_count.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fla {
namespace {

// Left to the driver, recorded graphs and libraries on a GPU; to everybody else on a CPU.
constexpr int64_t kReservedBytes = int64_t{768} << 20;

std::string Megabytes(int64_t bytes) { return std::to_string((bytes + 999'999) / 1'000'000); }

// What a further sequence in a batch takes beside its states: two rows of logits, and the records
// of a chunk that is not full.
int64_t WorkBytesPerSlot(const ModelConfig& config) {
  const MixerSpec& mixer = config.mixer;
  return 8 * int64_t{config.vocab_size} + mixer.heads * (96 * int64_t{mixer.state_k_dim()} + 2048);
}

}  // namespace

int FitSlots(const SlotDemand& demand) {
  const int64_t usable = demand.free_bytes - demand.reserved_bytes;
  const int64_t fitting = usable > 0 ? usable / demand.bytes_per_slot : 0;
  if (fitting < 1) {
    throw std::runtime_error(
        "memory: wanted " + Megabytes(demand.bytes_per_slot + demand.reserved_bytes) +
        " MB beside the weights (" + Megabytes(demand.bytes_per_slot) +
        " MB for the states of one sequence, the rest in reserve), got " +
        Megabytes(std::max<int64_t>(demand.free_bytes, 0)) +
        " MB: " + Megabytes(demand.bytes_per_slot - usable) + " MB are missing");
  }
  return static_cast<int>(std::min<int64_t>(demand.wanted, fitting));
}

SlotDemand DemandOf(Model& model, int wanted, StateFormat states) {
  Stream& stream = model.stream();
  const ModelConfig& config = model.config();
  {
    StatePool one(stream, config, 1, states);
    model.Prepare(one, nullptr, 1, 1);
  }
  SlotDemand demand;
  demand.wanted = wanted;
  demand.free_bytes = static_cast<int64_t>(FreeMemory(stream.device()));
  demand.reserved_bytes = kReservedBytes;
  demand.bytes_per_slot = StateBytesPerSlot(config, states) + WorkBytesPerSlot(config);
  return demand;
}

}  // namespace fla
