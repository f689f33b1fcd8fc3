// Compares decode on states beside which updates wait with the reference, over random sequences of
// steps: other slots in each, some of them none, and now and then all that waits applied. Exit code
// 1 if any case is out of bounds.
//
//   replay_check [cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "bench/cuda/random.h"
#include "bench/cuda/recurrence_inputs.h"
#include "bench/cuda/relative_error.h"
#include "kernels/cuda/step_replay.h"
#include "kernels/reference/recurrence.h"

namespace fla::cuda::bench {
namespace {

struct Case {
  RecurrenceSpec spec;
  int steps = 0, slots = 0, layers = 0;
};

std::string Describe(const Case& c, const char* types) {
  static const char* kDecays[] = {"none", "head", "token", "channel"};
  const RecurrenceSpec& s = c.spec;
  return std::string(types) + " " + kDecays[static_cast<int>(s.decay)] +
         (s.update == Update::kDelta ? " delta" : " additive") + " K" + std::to_string(s.key_dim) +
         " V" + std::to_string(s.value_dim) + " heads " + std::to_string(s.heads) + "/" +
         std::to_string(s.k_heads) + " r " + std::to_string(c.steps) + " slots " +
         std::to_string(c.slots);
}

template <typename T>
std::vector<double> Doubles(const std::vector<T>& x) {
  std::vector<double> doubles;
  for (const T value : x) doubles.push_back(static_cast<float>(value));
  return doubles;
}

// The layers of a case share their inputs and begin with the same states, so they stay alike.
template <typename T>
std::string RunCase(const Case& c, Random& random, double& worst) {
  const RecurrenceSpec& s = c.spec;
  const int K = s.key_dim, V = s.value_dim;
  const size_t states = static_cast<size_t>(c.slots) * s.heads * K * V;
  const PendingLayout layout = PendingLayoutOf(s, c.steps);
  const size_t pending_bytes = static_cast<size_t>(c.slots) * layout.bytes;
  const size_t layer_bytes = (states * sizeof(float) + pending_bytes + 255) / 256 * 256;
  const std::vector<float> first = random.Matrix<float>(c.slots, states / c.slots, 1);
  std::vector<char> memory(c.layers * layer_bytes, 0x7f);  // what no count says is there: NaN
  for (int layer = 0; layer < c.layers; ++layer) {
    char* const begin = memory.data() + layer * layer_bytes;
    std::memcpy(begin, first.data(), states * sizeof(float));
    for (int slot = 0; slot < c.slots; ++slot) {
      char* const pending = begin + states * sizeof(float) + slot * layout.bytes;
      std::fill(pending + layout.counts, pending + layout.updates, 0);
    }
  }
  const DeviceArray<char> device_memory(memory);
  std::vector<double> wanted_state = Doubles(first);
  PendingUpdates all;
  all.spec = s;
  all.state = device_memory.data();
  all.replay = {c.steps, device_memory.data() + states * sizeof(float)};
  all.layers = c.layers;
  all.layer_bytes = static_cast<int64_t>(layer_bytes);
  const double bound = sizeof(T) == 2 ? 4e-3 : 2e-5;

  const int num_steps = 3 * c.steps + random.Pick({0, 1, 2});
  for (int step = 0; step < num_steps; ++step) {
    std::vector<int> slots(c.slots);
    std::iota(slots.begin(), slots.end(), 0);
    for (int i = c.slots - 1; i > 0; --i) std::swap(slots[i], slots[random.Pick({0, i / 2, i})]);
    slots.resize(random.Pick({1, c.slots, c.slots}));
    if (random.Chance(3)) slots[random.Pick({0, static_cast<int>(slots.size()) - 1})] = -1;
    const int N = static_cast<int>(slots.size());
    auto key_rows = random.Matrix<T>(N * s.k_heads, K, 1 / std::sqrt(K));
    const auto q = random.Matrix<T>(N, s.q_heads * K, 1), v = random.Matrix<T>(N, s.v_heads * V, 1);
    const int decay_columns = s.decay == Decay::kPerChannel ? s.decay_heads * K : s.decay_heads;
    const bool per_head = s.decay == Decay::kPerHead;
    auto log_decay = random.Matrix<float>(per_head ? 1 : N, decay_columns, 0.2);
    for (float& g : log_decay) g = random.Chance(20) ? random.Pick({0, -300}) : -std::abs(g);
    if (random.Chance(8)) log_decay[0] = -INFINITY;
    auto beta = random.Matrix<float>(N, s.heads, 1);
    for (float& b : beta) b = 1 / (1 + std::exp(-b));
    const DeviceArray<T> device_q(q), device_k(key_rows), device_v(v),
        out(std::vector<T>(static_cast<size_t>(N) * s.heads * V, static_cast<T>(NAN)));
    const DeviceArray<float> device_decay(log_decay), device_beta(beta);
    const DeviceArray<int> device_slots(slots);
    const auto view = [&](const DeviceArray<T>& x, int64_t cols) {
      return Matrix{x.data(), DTypeOf<T>(), N, cols, cols};
    };
    RecurrenceArgs args;
    args.spec = s;
    args.q = view(device_q, s.q_heads * K);
    args.k = view(device_k, s.k_heads * K);
    args.v = view(device_v, s.v_heads * V);
    args.out = view(out, s.heads * V);
    args.log_decay = device_decay.data();
    args.beta = device_beta.data();
    args.slots = device_slots.data();
    args.num_sequences = N;
    for (int layer = 0; layer < c.layers; ++layer) {
      char* const begin = device_memory.data() + layer * layer_bytes;
      args.state = begin;
      const ReplayParams replay = {begin + states * sizeof(float), layout, c.steps};
      LaunchReplayStep(ParamsOf(args), replay, DTypeOf<T>(), nullptr, false);
    }
    // The reference knows no empty slots: those rows go to one more, that nobody looks at.
    reference::RecurrenceInputs inputs;
    const auto all_q = Doubles(q), all_k = Doubles(key_rows), all_v = Doubles(v),
               all_decays = Doubles(log_decay), all_beta = Doubles(beta);
    std::vector<int> wanted_slots = slots, cu(N + 1);
    std::iota(cu.begin(), cu.end(), 0);
    for (int& slot : wanted_slots) slot = slot < 0 ? c.slots : slot;
    wanted_state.resize(states + states / c.slots);
    inputs.spec = s;
    inputs.q = all_q, inputs.k = all_k, inputs.v = all_v;
    inputs.log_decay = all_decays, inputs.beta = all_beta;
    inputs.slots = wanted_slots, inputs.cu_seqlens = cu;
    const std::vector<double> result = reference::Recurrence(inputs, wanted_state);
    Check(cudaDeviceSynchronize(), "synchronize");
    const auto actual = Doubles(out.Download());
    std::vector<double> wanted_rows, actual_rows;
    const int row = s.heads * V;
    for (int n = 0; n < N; ++n) {
      if (slots[n] >= 0) {
        wanted_rows.insert(wanted_rows.end(), &result[n * row], &result[n * row] + row);
        actual_rows.insert(actual_rows.end(), &actual[n * row], &actual[n * row] + row);
      } else if (!std::all_of(&actual[n * row], &actual[n * row] + row,
                              [](double x) { return std::isnan(x); })) {
        return "step " + std::to_string(step) + ": wrote a row of no sequence";
      }
    }
    const double error = RelativeErrorOf(actual_rows, wanted_rows);
    worst = std::max(worst, error / bound);
    if (!(error < bound)) {
      return "step " + std::to_string(step) + ": outputs " + std::to_string(error);
    }
    if (random.Chance(6)) {
      all.slots = device_slots.data();
      all.num_sequences = N;
      LaunchApplyPending(all, nullptr);
      Check(cudaDeviceSynchronize(), "synchronize");
    }
  }

  std::vector<int> slots(c.slots);
  std::iota(slots.begin(), slots.end(), 0);
  const DeviceArray<int> device_slots(slots);
  all.slots = device_slots.data();
  all.num_sequences = c.slots;
  LaunchApplyPending(all, nullptr);
  Check(cudaDeviceSynchronize(), "synchronize");
  memory = device_memory.Download();
  wanted_state.resize(states);
  const double state_bound = 2e-5;
  for (int layer = 0; layer < c.layers; ++layer) {
    std::vector<float> actual(states);
    std::memcpy(actual.data(), memory.data() + layer * layer_bytes, states * sizeof(float));
    const double error = RelativeErrorOf(actual, wanted_state);
    worst = std::max(worst, error / state_bound);
    if (!(error < state_bound)) {
      return "layer " + std::to_string(layer) + ": states " + std::to_string(error);
    }
  }
  return "";
}

Case RandomCase(Random& random) {
  Case c;
  RecurrenceSpec& s = c.spec;
  s.decay = static_cast<Decay>(random.Pick({0, 1, 2, 3, 3}));
  s.update = random.Chance(3) ? Update::kAdditive : Update::kDelta;
  s.key_dim = random.Pick({16, 48, 64, 80, 128, 144, 256});
  s.value_dim = random.Pick({64, 80, 128, 208, 256});
  s.heads = random.Pick({1, 2, 4});
  s.v_heads = s.heads;
  s.q_heads = s.k_heads = s.decay_heads = random.Chance(2) ? 1 : s.heads;
  s.scale = 1 / std::sqrt(s.key_dim);
  c.steps = random.Pick({2, 3, 4, 8});
  c.slots = random.Pick({1, 2, 5});
  c.layers = random.Pick({1, 2});
  if (s.decay == Decay::kPerHead) s.decay_heads = s.heads;
  return c;
}

int Main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  Random random(argc > 2 ? std::atoi(argv[2]) : 1);
  int failed = 0;
  double worst[2] = {};
  for (int i = 0; i < cases; ++i) {
    const Case c = RandomCase(random);
    const bool bf16 = i % 2 == 0;
    const std::string message =
        bf16 ? RunCase<__nv_bfloat16>(c, random, worst[0]) : RunCase<float>(c, random, worst[1]);
    if (message.empty()) continue;
    ++failed;
    std::printf("FAILED case %d, %s: %s\n", i, Describe(c, bf16 ? "bf16" : "f32").c_str(),
                message.c_str());
  }
  std::printf("%d cases, %d failed; worst, of what is allowed: bf16 %.2f, f32 %.2f\n", cases,
              failed, worst[0], worst[1]);
  return failed > 0;
}

}  // namespace
}  // namespace fla::cuda::bench

int main(int argc, char** argv) { return fla::cuda::bench::Main(argc, argv); }
