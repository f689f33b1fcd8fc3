// Random recurrences and the ways to run them: by the reference, and on a device by prefill or
// token by token.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/recurrence.h"

namespace fla::testing {

// Largest relative Frobenius error of a sequence's outputs and of a head's state.
struct RecurrenceBounds {
  double out;
  double state;
};
RecurrenceBounds BoundsFor(Device device, DType dtype);

// The CPU, and the first GPU where this build and machine have one.
std::vector<Device> RecurrenceDevices();

struct Cell {
  Decay decay;
  Update update;
};
std::vector<Cell> AllCells();
std::string NameOf(Cell cell);

// A spec with one head count everywhere and scale K^-0.5.
RecurrenceSpec SpecOf(Cell cell, int key_dim, int value_dim, int heads);

// Host values of one call; q, k and v are exactly representable in `dtype`. Rows are contiguous
// here and get gaps on the device.
struct RecurrenceProblem {
  RecurrenceSpec spec;
  DType dtype = DType::kF32;
  std::vector<int> lengths;  // [N]
  std::vector<int> slots;    // [N]
  int num_slots = 0;
  std::vector<double> q, k, v;
  std::vector<float> log_decay, beta;
  std::vector<float> state;  // [S, H, K, V]

  // What a prefill gets instead of q, k, log_decay and beta, which are what becomes of it.
  struct Projections {
    GateKind kind = GateKind::kLogSigmoid;
    std::vector<double> q, k, gates, beta;
    std::vector<float> a_log, dt_bias;
  };
  std::optional<Projections> projections;

  int num_tokens() const;
  std::vector<int> cu_seqlens() const;
};

struct RecurrenceResult {
  std::vector<float> out;    // [T, H, V]
  std::vector<float> state;  // [S, H, K, V]
};

enum class Gates {
  kMild,    // log decays in (-0.2, 0)
  kMixed,   // 0, mild, -5, -50 and -1e4 side by side
  kStrong,  // -50 and -1e4
};

// Slots are a random selection of N + 2. Keys have length 1 and beta lies in (0, max_beta), so that
// the delta rule is stable.
RecurrenceProblem RandomProblem(const RecurrenceSpec& spec, DType dtype, std::vector<int> lengths,
                                uint32_t seed, Gates gates = Gates::kMild, float max_beta = 1.0f);

// `problem` from projections, all of them that its spec has, with gates of a kind.
RecurrenceProblem Projected(RecurrenceProblem problem, GateKind kind, uint32_t seed);

// The problem of some of a problem's sequences: those named, in that order, from token `begin` of
// each up to `end` (or its last). The state is `state`.
RecurrenceProblem Part(const RecurrenceProblem& problem, const std::vector<int>& sequences,
                       int begin, int end, const std::vector<float>& state);

// Whether ChunkedPrefill takes the problem's projections.
bool TakesProjections(Device device, const RecurrenceProblem& problem);

// One call on a device. Outputs and the gaps between rows are poisoned with NaN before; a gap that
// was written to is a test failure.
RecurrenceResult RunPrefill(Device device, const RecurrenceProblem& problem);
RecurrenceResult RunStep(Device device, const RecurrenceProblem& problem);

// Every sequence token by token, through RecurrentStep.
RecurrenceResult RunSteps(Device device, const RecurrenceProblem& problem);

// The reference, not rounded to the dtype beyond float.
RecurrenceResult RunReference(const RecurrenceProblem& problem);

// Compares the outputs sequence by sequence and the states head by head; a failure names the worst.
void ExpectClose(const RecurrenceProblem& problem, const RecurrenceResult& actual,
                 const RecurrenceResult& wanted, RecurrenceBounds bounds);

// Equal bit for bit.
void ExpectSame(const std::vector<float>& actual, const std::vector<float>& wanted,
                const char* what);

}  // namespace fla::testing
