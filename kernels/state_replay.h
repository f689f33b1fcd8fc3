// Decode that mostly reads states: updates k u^T wait beside a state (StateReplay in recurrence.h),
// a step reads the state and adds what they contribute, and every r-th writes it.
//
// A tile of a state has a phase of its own, so that of every step one tile in r is written,
// whatever sequences it has. Hence how many updates wait is counted for each tile; keys and decays
// lie in a ring that the tiles of a head share.
#pragma once

#include <cstdint>

#include "kernels/recurrence.h"

namespace fla {

inline constexpr int kMinReplaySteps = 2, kMaxReplaySteps = 8;
inline constexpr int kReplayColumns = 64;  // of a tile

// What waits in one slot: offsets in bytes, each a multiple of 16.
struct PendingLayout {
  int64_t counts;   // int [H, tiles]: next place in the ring + 256 * updates that wait
  int64_t updates;  // f32 [H, r, V]: u
  int64_t decays;   // f32 [H, r, K], or [H, r] where a decay is no channel's own: factors
  int64_t keys;     // f32 [H, r, K]
  int64_t bytes;
};
PendingLayout PendingLayoutOf(const RecurrenceSpec& spec, int steps);

// Whether RecurrentStep takes a StateReplay, beside f32 states. Not on a CPU, before Hopper, and
// for unusual heads.
bool TakesReplay(const Stream& stream, const RecurrenceSpec& spec);

// Updates that wait in some slots of layers that are alike.
struct PendingUpdates {
  RecurrenceSpec spec;
  void* state = nullptr;  // as RecurrenceArgs', f32, of the first layer
  StateReplay replay;     // of the first layer
  int layers = 1;
  int64_t layer_bytes = 0;     // from a layer's state to the next one's; from what waits likewise
  const int* slots = nullptr;  // [N], -1: none
  int num_sequences = 0;       // N
};
// Writes them into their states: what other kernels than a replaying RecurrentStep's must find.
void ApplyPending(Stream& stream, const PendingUpdates& args);

}  // namespace fla
