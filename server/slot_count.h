// How many sequences a model can run at once.
#pragma once

#include <cstdint>

#include "model/model.h"
#include "model/state_pool.h"

namespace fla {

struct SlotDemand {
  int wanted = 1;
  int64_t free_bytes = 0;  // of the device, once weights and the largest batch have their memory
  int64_t reserved_bytes = 0;  // to be left free
  int64_t bytes_per_slot = 0;  // its states and what grows with it
};

// On a GPU, where the config says nothing: more sequences than that gain little a step.
inline constexpr int kMostSlots = 256;

// `wanted`, or fewer where memory is short, at least 1. Throws std::runtime_error that says how
// much memory is missing where not even one fits.
int FitSlots(const SlotDemand& demand);

// The demand of a model that has been loaded. Takes the memory of its largest batch first. Throws
// DeviceError where that is missing.
SlotDemand DemandOf(Model& model, int wanted, StateFormat states);

}  // namespace fla
