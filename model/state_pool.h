// The recurrent state of every sequence a model can run at once: S slots, each of constant size.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "kernels/state_replay.h"
#include "model/config.h"

namespace fla {

// How states are held.
struct StateFormat {
  DType dtype = DType::kF32;
  int replay = 0;  // r of StateReplay, of f32 states where TakesReplay; 0: each step writes them
};

// Whether the model's decode steps can leave updates beside their states.
bool TakesReplay(const Stream& stream, const ModelConfig& config);

// Bytes of state one sequence has, over all layers.
int64_t StateBytesPerSlot(const ModelConfig& config, StateFormat format);

// Owns the states on the device and hands out slots. A slot is used by one sequence at a time.
//
// Thread safety: one thread at a time (the engine's); used() may be read from any.
class StatePool {
 public:
  // Allocates `slots` slots on the stream's device; throws DeviceError if memory is short.
  StatePool(Stream& stream, const ModelConfig& config, int slots, StateFormat format = {});

  // The lowest free slot, so that few sequences lie close together, with all of its states zeroed,
  // or -1 when every slot is in use.
  int Acquire(Stream& stream);
  void Release(int slot);

  int total() const { return total_; }
  int used() const { return used_; }
  int64_t bytes() const { return static_cast<int64_t>(memory_.size()); }

  // What a layer's kernels read and write, for all slots.
  struct LayerState {
    void* recurrent = nullptr;     // [S, H, K, V]
    float* convolution = nullptr;  // [S, C, W - 1], null without short convolutions
    float* normalizer = nullptr;   // [S, H, K], null without a normaliser
    float* open_chunk = nullptr;   // [S, H, OpenChunkFloats], null where the chunk does not matter
    StateReplay replay;            // what waits beside `recurrent`, if anything can
  };
  const LayerState& layer(int index) const { return layers_[index]; }
  DType state_dtype() const { return format_.dtype; }

  // To be called before the kernels of a batch are queued. Those of a decode step that leaves its
  // updates beside the states of `slots`:
  void LeavePending(std::span<const int> slots);
  // Others, which must find all of a state in it: writes what may wait beside the states of `slots`
  // into them. `device_slots`: the same in device memory.
  void ApplyPending(Stream& stream, std::span<const int> slots, const int* device_slots);

 private:
  int total_;
  StateFormat format_;
  RecurrenceSpec recurrence_;
  int64_t layer_bytes_ = 0;
  Buffer memory_;
  std::vector<LayerState> layers_;
  int num_regions_ = 0;         // one kind of state of one layer each, a row a slot
  Buffer regions_;              // [num_regions_] ByteRows
  std::vector<int> free_;       // descending
  std::vector<bool> may_wait_;  // of each slot: beside its states
  std::atomic<int> used_ = 0;
};

}  // namespace fla
