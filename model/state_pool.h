// The recurrent state of every sequence a model can run at once: S slots, each of constant size.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels/device.h"
#include "model/config.h"

namespace fla {

// Bytes of state one sequence has, over all layers.
int64_t StateBytesPerSlot(const ModelConfig& config, DType state_dtype);

// Owns the states on the device and hands out slots. A slot is used by one sequence at a time.
//
// Thread safety: one thread at a time (the engine's); used() may be read from any.
class StatePool {
 public:
  // Allocates `slots` slots on the stream's device; throws DeviceError if memory is short.
  StatePool(Stream& stream, const ModelConfig& config, int slots, DType state_dtype = DType::kF32);

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
  };
  const LayerState& layer(int index) const { return layers_[index]; }
  DType state_dtype() const { return state_dtype_; }

 private:
  int total_;
  DType state_dtype_;
  Buffer memory_;
  std::vector<LayerState> layers_;
  int num_regions_ = 0;    // one kind of state of one layer each, a row a slot
  Buffer regions_;         // [num_regions_] ByteRows
  std::vector<int> free_;  // descending
  std::atomic<int> used_ = 0;
};

}  // namespace fla
