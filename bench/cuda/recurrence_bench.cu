// Times the recurrence's kernels on the shapes that docs/performance.md reports: median of graph
// replays, as one line a shape.
//
//   recurrence_bench [prefill] [step] [split|whole] [narrow] [one|two] [uncut] [ahead|behind]
//                    [width=1|2] [segments=TOKENS] [slices=N] [window=TOKENS]
//                    [fused=1|2] [places=N]
//                    [projected|softplus] [only=TEXT] [tokens=N]
//                                          prefill and step if neither is named; the other words
//                                          change prefill's plan (`ahead` and `behind` make it two
//                                          kernels, `fused` one where it can be); `projected`: from
//                                          a layer's projections, where there are kernels for that
//                                          (KDA's with a lower bound, or without); `only`: rows
//                                          with TEXT in them; `tokens`: prompts of one sequence,
//                                          made so long
//   recurrence_bench step [tiles|loads|any] [shuffled] [sequences=N,...] [only=TEXT] [f32]
//                    [replay] [copied]
//                                          by one kernel only, where it can; slots in random order;
//                                          no bf16 states.
//                                          A "step" is one call repeated, some of whose states the
//                                          L2 cache still has; a "chained step" is a call as a
//                                          recorded step makes it: on states of its own, begun
//                                          while the one before it ends. `replay`: the same on
//                                          states that every 2nd, 4th and 8th step writes, too, and
//                                          the TB/s that it then moves. `copied` (Hopper): states
//                                          of these bytes go to shared memory and back by the copy
//                                          engine, in tiles as TileStepKernel's, and nothing else
//                                          happens: what a step could reach
//   recurrence_bench profile               each kernel once, for a profiler
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>
#include <string>

#include "bench/cuda/recurrence_inputs.h"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/step_replay.h"

namespace fla::cuda::bench {
namespace {

struct Shape {
  const char* name;
  Decay decay;
  Update update;
  int qk_heads, heads, key_dim, value_dim;
  std::vector<int> lengths;
};

// 20 ragged lengths of 16384 tokens in all.
std::vector<int> Ragged() {
  return {40,  1900, 300, 77,   2600, 512, 1024, 128, 3000, 900,
          650, 211,  33,  1500, 460,  800, 700,  99,  1000, 450};
}

// And six, of 8192.
std::vector<int> SixRagged() { return {1300, 547, 2048, 963, 271, 3063}; }

// Milliseconds of one call: the median of 7 replays of a graph of `calls`.
template <typename Call>
double MedianMilliseconds(int calls, const Call& call) {
  cudaStream_t stream;
  Check(cudaStreamCreate(&stream), "cudaStreamCreate");
  call(stream);
  Check(cudaStreamSynchronize(stream), "warm-up");
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) call(stream);
  Check(cudaStreamEndCapture(stream, &graph), "capture");
  Check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  // An idle GPU's clocks take some milliseconds to rise.
  const auto warm = std::chrono::steady_clock::now() + std::chrono::milliseconds(10);
  while (std::chrono::steady_clock::now() < warm) {
    Check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
    Check(cudaStreamSynchronize(stream), "warm-up");
  }
  for (int i = 0; i < 9; ++i) {
    cudaEventRecord(begin, stream);
    Check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
    cudaEventRecord(end, stream);
    Check(cudaEventSynchronize(end), "replay");
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    if (i >= 2) times.push_back(milliseconds / calls);
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return times[times.size() / 2];
}

struct Inputs {
  Inputs(const Shape& shape, bool bf16_state, bool shuffled = false)
      : cu{0},
        q(Tokens(shape) * shape.qk_heads * shape.key_dim),
        k(q.size()),
        v(Tokens(shape) * shape.heads * shape.value_dim),
        out(v.size()),
        log_decay(shape.decay == Decay::kPerChannel ? Tokens(shape) * shape.heads * shape.key_dim
                                                    : Tokens(shape) * shape.heads),
        beta(Tokens(shape) * shape.heads),
        state(shape.lengths.size() * shape.heads * shape.key_dim * shape.value_dim),
        projected_gates(log_decay.size()),
        projected_beta(beta.size()),
        a_log(shape.heads),
        dt_bias(shape.heads * shape.key_dim),
        slots(Slots(shape.lengths.size(), shuffled)),
        device_cu(Sums(shape.lengths)) {
    cu = Sums(shape.lengths);
    const float unit = 1.0f / std::sqrt(static_cast<float>(shape.key_dim));
    FillNormal(q.data(), q.size(), 0.0f, 1.0f, 1e9f, 1);
    FillNormal(k.data(), k.size(), 0.0f, unit, 1e9f, 2);
    FillNormal(v.data(), v.size(), 0.0f, 1.0f, 1e9f, 3);
    FillNormal(log_decay.data(), log_decay.size(), -0.1f, 0.1f, 0.0f, 4);
    FillNormal(beta.data(), beta.size(), 0.5f, 0.1f, 1.0f, 5);
    FillNormal(state.data(), state.size(), 0.0f, 0.1f, 1e9f, 6);
    FillNormal(projected_gates.data(), projected_gates.size(), 0.0f, 1.0f, 1e9f, 7);
    FillNormal(projected_beta.data(), projected_beta.size(), 0.0f, 1.0f, 1e9f, 8);
    FillNormal(a_log.data(), a_log.size(), 0.5f, 0.3f, 1e9f, 9);
    FillNormal(dt_bias.data(), dt_bias.size(), -4.0f, 2.0f, 1e9f, 10);
    RecurrenceSpec& s = args.spec;
    s.decay = shape.decay;
    s.update = shape.update;
    s.key_dim = shape.key_dim;
    s.value_dim = shape.value_dim;
    s.heads = s.v_heads = s.decay_heads = shape.heads;
    s.q_heads = s.k_heads = shape.qk_heads;
    s.scale = unit;
    const int64_t tokens = Tokens(shape);
    args.q = {q.data(), DType::kBF16, tokens, shape.qk_heads * shape.key_dim,
              shape.qk_heads * shape.key_dim};
    args.k = args.q;
    args.k.data = k.data();
    args.v = {v.data(), DType::kBF16, tokens, shape.heads * shape.value_dim,
              shape.heads * shape.value_dim};
    args.out = args.v;
    args.out.data = out.data();
    args.log_decay = log_decay.data();
    args.beta = beta.data();
    args.state = state.data();
    args.state_dtype = bf16_state ? DType::kBF16 : DType::kF32;
    args.slots = slots.data();
    args.cu_seqlens = device_cu.data();
    args.cu_seqlens_host = cu.data();
    args.num_sequences = static_cast<int>(shape.lengths.size());
  }

  static int64_t Tokens(const Shape& shape) { return Sums(shape.lengths).back(); }
  static std::vector<int> Sums(const std::vector<int>& lengths) {
    std::vector<int> sums = {0};
    for (int length : lengths) sums.push_back(sums.back() + length);
    return sums;
  }
  static std::vector<int> Slots(int count, bool shuffled) {
    std::vector<int> slots(count);
    std::iota(slots.begin(), slots.end(), 0);
    if (shuffled) std::shuffle(slots.begin(), slots.end(), std::mt19937(1));
    return slots;
  }

  std::vector<int> cu;
  DeviceArray<__nv_bfloat16> q, k, v, out;
  DeviceArray<float> log_decay, beta, state;
  DeviceArray<__nv_bfloat16> projected_gates, projected_beta;
  DeviceArray<float> a_log, dt_bias;
  DeviceArray<int> slots, device_cu;
  RecurrenceArgs args;
};

struct Overrides {
  bool ahead = false, behind = false, split = false, whole = false, narrow = false, one = false,
       two = false;
  std::optional<StepKernel> step_kernel;
  bool shuffled = false;  // slots
  bool f32 = false;       // states only
  bool uncut = false;
  bool projected = false, softplus = false;
  int segment_tokens = 0, slices = 0, width = 0, window_tokens = 0, fused = 0,
      places = 0;                                               // 0: as planned
  std::vector<int> sequences = {1, 8, 32, 64, 128, 256, 1024};  // of a step
  bool replay = false, copied = false;
  int tokens = 0;  // of a prompt; 0: as the row says
  std::string only;
};

const char* NameOf(StepKernel kernel) {
  return kernel == StepKernel::kTiles ? "tiles" : kernel == StepKernel::kLoads ? "loads" : "any";
}

StepPlan PlanOf(const RecurrenceParams& params, const Overrides& overrides) {
  StepPlan plan = PlanStep(params, DType::kBF16, Multiprocessors(), IsHopper());
  if (overrides.step_kernel == StepKernel::kTiles && IsHopper() &&
      HasTileStep(params, DType::kBF16)) {
    plan = {StepKernel::kTiles, kStepTileColumns, /*many=*/false};
  }
  if (overrides.step_kernel == StepKernel::kLoads && plan.kernel == StepKernel::kTiles &&
      HasLoadStep(params, DType::kBF16)) {
    plan = PlanManyLoads(params);
  }
  if (overrides.step_kernel == StepKernel::kAny) {
    plan = {StepKernel::kAny, std::min(plan.columns, 32), /*many=*/false};
  }
  return plan;
}

// The projections that KDA (`bounded`: with a lower bound), GLA and Gated DeltaNet leave.
RecurrenceProjections ProjectionsOf(const Inputs& inputs, bool bounded) {
  const RecurrenceSpec& spec = inputs.args.spec;
  const bool delta = spec.update == Update::kDelta;
  const int64_t tokens = inputs.args.q.rows;
  RecurrenceProjections from;
  from.q_norm = from.k_norm = delta ? HeadNorm::kL2 : HeadNorm::kNone;
  from.norm_eps = 1e-6f;
  if (spec.decay == Decay::kPerToken || spec.decay == Decay::kPerChannel) {
    LogDecayArgs& decay = from.log_decay;
    const int64_t columns = inputs.projected_gates.size() / tokens;
    decay.kind = !delta    ? GateKind::kLogSigmoid
                 : bounded ? GateKind::kBoundedSigmoid
                           : GateKind::kSoftplus;
    decay.x = {inputs.projected_gates.data(), DType::kBF16, tokens, columns, columns};
    decay.heads = spec.heads;
    decay.normalizer = 16.0f;
    decay.lower_bound = -5.0f;
    if (delta) {
      decay.a_log = inputs.a_log.data();
      decay.dt_bias = inputs.dt_bias.data();
    }
  }
  if (delta) {
    from.beta = {inputs.projected_beta.data(), DType::kBF16, tokens, spec.heads, spec.heads};
  }
  return from;
}

void BenchPrefill(const Overrides& overrides) {
  const Decay none = Decay::kNone, head = Decay::kPerHead, token = Decay::kPerToken,
              channel = Decay::kPerChannel;
  const Update add = Update::kAdditive, delta = Update::kDelta;
  const std::vector<int> eight(8, 2048), four(4, 8192);
  const Shape shapes[] = {
      {"KDA H96 1x8192", channel, delta, 96, 96, 128, 128, {8192}},
      {"KDA H64 1x8192", channel, delta, 64, 64, 128, 128, {8192}},
      {"KDA H64 20 ragged 16384", channel, delta, 64, 64, 128, 128, Ragged()},
      {"KDA H96 6 ragged 8192", channel, delta, 96, 96, 128, 128, SixRagged()},
      {"KDA H96 8x1024", channel, delta, 96, 96, 128, 128, std::vector<int>(8, 1024)},
      {"KDA H64 6 ragged 8192", channel, delta, 64, 64, 128, 128, SixRagged()},
      {"KDA H64 8x1024", channel, delta, 64, 64, 128, 128, std::vector<int>(8, 1024)},
      {"KDA H4 1x65536", channel, delta, 4, 4, 128, 128, {65536}},
      {"KDA H8 1x65536", channel, delta, 8, 8, 128, 128, {65536}},
      {"GDN 16/32 1x8192", token, delta, 16, 32, 128, 128, {8192}},
      {"GDN 16/64 1x8192", token, delta, 16, 64, 128, 128, {8192}},
      {"GDN 16/64 4x8192", token, delta, 16, 64, 128, 128, four},
      {"DeltaNet H64 1x8192", none, delta, 64, 64, 128, 128, {8192}},
      {"GLA H64 1x8192", channel, add, 64, 64, 128, 128, {8192}},
      {"simple GLA H64 1x8192", token, add, 64, 64, 128, 128, {8192}},
      {"RetNet H64 1x8192", head, add, 64, 64, 128, 128, {8192}},
      {"linear attention H64 1x8192", none, add, 64, 64, 128, 128, {8192}},
      {"GLA 8x2048 H4 256x512", channel, add, 4, 4, 256, 512, eight},
      {"simple GLA 8x2048 H4 256x512", token, add, 4, 4, 256, 512, eight},
      {"GDN 8x2048 H6 256x512", token, delta, 6, 6, 256, 512, eight},
      {"GDN H6 256x512 1x2048", token, delta, 6, 6, 256, 512, {2048}},
      {"GLA H4 256x512 1x2048", channel, add, 4, 4, 256, 512, {2048}},
      {"GLA H4 256x512 1x128", channel, add, 4, 4, 256, 512, {128}},
      {"GDN H16 128x128 1x16384", token, delta, 16, 16, 128, 128, {16384}},
  };
  for (Shape shape : shapes) {
    if (std::string(shape.name).find(overrides.only) == std::string::npos) continue;
    if (overrides.tokens > 0) {
      if (shape.lengths.size() > 1) continue;
      shape.lengths = {overrides.tokens};
    }
    const Inputs inputs(shape, false);
    RecurrenceArgs args = inputs.args;
    if (overrides.projected) {
      args.projections = ProjectionsOf(inputs, !overrides.softplus);
      if (!HasProjectedPrepare(args)) continue;
    }
    PrefillPlan plan =
        PlanPrefill(args, Multiprocessors(), IsHopper() && !overrides.narrow, !overrides.uncut);
    if (overrides.ahead || overrides.behind) {
      plan.ahead = overrides.ahead;
      plan.late = false;
      plan.tracks = 0;
    }
    if (overrides.window_tokens + overrides.segment_tokens + overrides.width > 0) {
      plan.tracks = 0;
    }
    if (overrides.fused > 0 && CanFuse(args)) {
      plan.slice_width = overrides.fused;
      plan.record_places = kRecordPlaces;
      plan.tracks = MostTracks(args, overrides.fused, Multiprocessors());
    }
    if (overrides.places > 0) plan.record_places = overrides.places;
    if (overrides.window_tokens > 0) plan.window_tokens = overrides.window_tokens;
    if (overrides.segment_tokens > 0) plan.segment_tokens = overrides.segment_tokens;
    if (overrides.width > 0) plan.slice_width = overrides.width;
    if (plan.segment_tokens > 0) plan.slice_width = 2;
    if (!plan.wide && plan.slice_width == 2) {
      plan.key_parts = std::max(1, MaxKeyDim(shape.key_dim) / 128);
      plan.slices_per_block = std::min(plan.slices_per_block, 4 / plan.key_parts);
    }
    if (overrides.slices > 0) plan.slices_per_block = overrides.slices;
    if (plan.wide && (overrides.one || overrides.two))
      plan.slices_per_block = overrides.one ? 1 : 2;
    if (!plan.wide && (overrides.split || overrides.whole)) {
      plan.key_parts = std::max(1, MaxKeyDim(shape.key_dim) / (overrides.split ? 64 : 128));
      plan.slices_per_block = std::min(plan.slices_per_block, 8 / plan.key_parts);
    }
    PlanShortPrompt(args, Multiprocessors(), IsHopper() && !overrides.narrow, plan);
    const DeviceArray<char> scratch(PrefillScratchBytes(args, plan));
    const double both = MedianMilliseconds(
        4, [&](cudaStream_t stream) { LaunchChunkedPrefill(args, plan, scratch.data(), stream); });
    RecurrenceParams params = ParamsOf(args);
    params.cu_seqlens = args.cu_seqlens;
    const TokenWindow window = {
        0, std::min<int>({static_cast<int>(args.q.rows), 8192, plan.window_tokens})};
    const double prepare = MedianMilliseconds(4, [&](cudaStream_t stream) {
      const ChunkWorkspace workspace = {scratch.data()};
      const ChunkSlots slots = {
          0, SlotsOfWindow(window, args.num_sequences, plan.wide ? kWideChunk : kChunk)};
      if (plan.tracks > 0 || (plan.wide && shape.update == Update::kAdditive)) return;
      if (plan.wide) {
        LaunchWidePrepare(params, args.projections, window, slots, workspace, stream);
      } else {
        LaunchChunkPrepare(params, args.projections, shape.update, ChunkRecordOf(args.spec), window,
                           slots, workspace, plan.part_channels, stream);
      }
    });
    std::printf(
        "prefill %-30s %8.4f ms  (prepare %.4f for %d of %d tokens; windows of %d, workspace %.0f "
        "MB; segments of %d, blocks of %d slices of width %d by %d%s)\n",
        shape.name, both, prepare, window.end, static_cast<int>(args.q.rows), plan.window_tokens,
        scratch.size() * 1e-6, plan.segment_tokens, plan.slices_per_block, plan.slice_width,
        plan.key_parts, plan.tracks > 0 ? ", one kernel" : "");
    std::fflush(stdout);
  }
}

// Milliseconds of a chained step on states of their own with updates waiting.
void BenchReplay(const Shape& shape, const Inputs& inputs, int steps, int calls,
                 const DeviceArray<char>& states, int layers) {
  const RecurrenceParams params = ParamsOf(inputs.args);
  const PendingLayout layout = PendingLayoutOf(inputs.args.spec, steps);
  const size_t slots = inputs.slots.size(), layer_bytes = states.size() / layers;
  const DeviceArray<char> pending(layers * slots * layout.bytes);
  Check(cudaMemset(pending.data(), 0, pending.size()), "cudaMemset");
  int layer = 0;
  const double milliseconds = MedianMilliseconds(calls, [&](cudaStream_t stream) {
    RecurrenceParams of_layer = params;
    of_layer.state = states.data() + layer % layers * layer_bytes;
    const ReplayParams replay = {pending.data() + layer % layers * slots * layout.bytes, layout,
                                 steps};
    ++layer;
    LaunchReplayStep(of_layer, replay, DType::kBF16, stream, /*chained=*/true);
  });
  // Of r steps: updates wait 0 to r - 1 at a time, each step leaves another.
  const double update = static_cast<double>(layout.bytes) / steps;
  const double bytes = layer_bytes * (1 + 1.0 / steps) + slots * update * ((steps - 1) / 2.0 + 1);
  std::printf("replayed step r %d %-16s N %4zu  %9.4f ms  %.2f TB/s\n", steps, shape.name, slots,
              milliseconds, bytes / milliseconds * 1e-9);
}

// Grid (V / kStepTileColumns, H, N), one thread, shared f32 [K, kStepTileColumns] and a barrier: a
// tile of a state to shared memory and back.
__global__ void CopyTileKernel(const __grid_constant__ TileMap states, int key_dim) {
#if __CUDA_ARCH__ >= 900
  BeginNextKernel();
  const uint32_t tile = SharedAddress(DynamicShared());
  const uint32_t bytes = key_dim * kStepTileColumns * sizeof(float), loaded = tile + bytes;
  const int row = (blockIdx.z * gridDim.y + blockIdx.y) * key_dim;
  const int column = blockIdx.x * kStepTileColumns;
  InitBarrier(loaded, 1);
  PublishBarriers();
  ArriveExpecting(loaded, bytes);
  CopyTileToShared(tile, states, row, column, loaded, kWrittenBack);
  AwaitPreviousKernel();
  Wait(loaded, 0);
  PublishToCopies();
  CopyTileToGlobal(states, row, column, tile);
  WaitForReads();
#endif
}

void LaunchCopyTiles(const Shape& shape, void* state, cudaStream_t stream, bool chained) {
  const int shared = shape.key_dim * kStepTileColumns * static_cast<int>(sizeof(float)) + 8;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(CopyTileKernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "cudaFuncSetAttribute");
  const TileMap states =
      MakeTileMap(state, DType::kF32, shape.value_dim, shape.key_dim, kStepTileColumns);
  const dim3 grid(shape.value_dim / kStepTileColumns, shape.heads, shape.lengths.size());
  Check(
      LaunchChained(CopyTileKernel, grid, dim3(1), shared, stream, chained, states, shape.key_dim),
      "CopyTileKernel");
}

std::string DescribePlan(const StepPlan& plan) {
  return std::string(NameOf(plan.kernel)) + " of " + std::to_string(plan.columns) + " columns" +
         (plan.many ? ", many" : "");
}

// One row of BenchStep.
void BenchStepOf(const Shape& shape, bool bf16_state, const Overrides& overrides) {
  constexpr int kLayers = 8;
  const int count = static_cast<int>(shape.lengths.size());
  const int calls = count <= 64 ? 5 * kLayers : kLayers;
  const Inputs inputs(shape, bf16_state, overrides.shuffled);
  const RecurrenceParams params = ParamsOf(inputs.args);
  const StepPlan plan = PlanOf(params, overrides);
  const size_t layer_bytes = inputs.state.size() * (bf16_state ? 2 : 4);
  const DeviceArray<char> states(kLayers * layer_bytes);
  const auto report = [&](const char* kind, double milliseconds, const std::string& how) {
    std::printf("%-12s %-21s N %4d %s  %9.4f ms  %.2f TB/s  %s\n", kind, shape.name, count,
                bf16_state ? "state bf16" : "state f32 ", milliseconds,
                2 * layer_bytes / milliseconds * 1e-9, how.c_str());
  };
  // One call repeated, then calls on each layer's states in turn.
  const auto repeated = [&](const auto& call) {
    return MedianMilliseconds(
        40, [&](cudaStream_t stream) { call(params.state, stream, /*chained=*/false); });
  };
  const auto in_turn = [&](const auto& call) {
    int layer = 0;
    return MedianMilliseconds(calls, [&](cudaStream_t stream) {
      call(states.data() + layer++ % kLayers * layer_bytes, stream, /*chained=*/true);
    });
  };
  const auto step = [&](void* state, cudaStream_t stream, bool chained) {
    RecurrenceParams of_state = params;
    of_state.state = state;
    LaunchRecurrent(of_state, DType::kBF16, plan, stream, chained);
  };
  report("step", repeated(step), DescribePlan(plan));
  report("chained step", in_turn(step), DescribePlan(plan));
  if (overrides.copied && IsHopper() && !bf16_state) {
    const auto copy = [&](void* state, cudaStream_t stream, bool chained) {
      LaunchCopyTiles(shape, state, stream, chained);
    };
    report("copied", repeated(copy), "");
    report("chained copy", in_turn(copy), "");
  }
  for (const int steps : {2, 4, 8}) {
    if (overrides.replay && !bf16_state) {
      BenchReplay(shape, inputs, steps, calls, states, kLayers);
    }
  }
  std::fflush(stdout);
}

void BenchStep(const Overrides& overrides) {
  const Decay none = Decay::kNone, head = Decay::kPerHead, token = Decay::kPerToken,
              channel = Decay::kPerChannel;
  const Update add = Update::kAdditive, delta = Update::kDelta;
  const Shape shapes[] = {
      {"linear 256x512 H4", none, add, 4, 4, 256, 512, {}},
      {"RetNet 256x512 H4", head, add, 4, 4, 256, 512, {}},
      {"simple GLA 256x512 H4", token, add, 4, 4, 256, 512, {}},
      {"GLA 256x512 H4", channel, add, 4, 4, 256, 512, {}},
      {"DeltaNet 256x512 H4", none, delta, 4, 4, 256, 512, {}},
      {"delta RetNet 256x512 H4", head, delta, 4, 4, 256, 512, {}},
      {"GDN 256x512 H4", token, delta, 4, 4, 256, 512, {}},
      {"KDA 256x512 H4", channel, delta, 4, 4, 256, 512, {}},
      {"DeltaNet 128x128 H16", none, delta, 16, 16, 128, 128, {}},
      {"GDN 128x128 H16", token, delta, 16, 16, 128, 128, {}},
      {"KDA 128x128 H16", channel, delta, 16, 16, 128, 128, {}},
      {"GLA 64x64 H16", channel, add, 16, 16, 64, 64, {}},
  };
  for (Shape shape : shapes) {
    if (std::string(shape.name).find(overrides.only) == std::string::npos) continue;
    for (const int count : overrides.sequences) {
      shape.lengths.assign(count, 1);
      BenchStepOf(shape, /*bf16_state=*/false, overrides);
      if (!overrides.f32) BenchStepOf(shape, /*bf16_state=*/true, overrides);
    }
  }
}

void Profile() {
  const Shape shapes[] = {
      {"KDA H64", Decay::kPerChannel, Update::kDelta, 64, 64, 128, 128, {4096}},
      {"GDN 16/64", Decay::kPerToken, Update::kDelta, 16, 64, 128, 128, {4096}},
      {"GLA 256x512", Decay::kPerChannel, Update::kAdditive, 4, 4, 256, 512,
       std::vector<int>(8, 1024)},
  };
  for (const Shape& shape : shapes) {
    const Inputs inputs(shape, false);
    const PrefillPlan plan = PlanPrefill(inputs.args, Multiprocessors(), IsHopper());
    const DeviceArray<char> scratch(PrefillScratchBytes(inputs.args, plan));
    LaunchChunkedPrefill(inputs.args, plan, scratch.data(), nullptr);
    Check(cudaDeviceSynchronize(), "profile");
  }
  for (const Decay decay : {Decay::kPerToken, Decay::kPerChannel}) {
    const Shape shape = {"step", decay, Update::kDelta, 4, 4, 256, 512, std::vector<int>(256, 1)};
    const Inputs inputs(shape, false);
    const RecurrenceParams params = ParamsOf(inputs.args);
    LaunchRecurrent(params, DType::kBF16, PlanOf(params, {}), nullptr);
    Check(cudaDeviceSynchronize(), "profile");
  }
}

// "1,8".
std::vector<int> ParseInts(const std::string& text) {
  std::vector<int> numbers;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) numbers.push_back(std::stoi(part));
  return numbers;
}

}  // namespace
}  // namespace fla::cuda::bench

int main(int argc, char** argv) {
  bool prefill = false, step = false;
  fla::cuda::bench::Overrides overrides;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "profile") {
      fla::cuda::bench::Profile();
      return 0;
    }
    prefill |= word == "prefill";
    step |= word == "step";
    const auto number = [&](const char* name, int& value) {
      const std::string prefix = std::string(name) + "=";
      if (word.starts_with(prefix)) value = std::stoi(word.substr(prefix.size()));
    };
    number("segments", overrides.segment_tokens);
    number("slices", overrides.slices);
    number("window", overrides.window_tokens);
    number("width", overrides.width);
    number("fused", overrides.fused);
    number("places", overrides.places);
    if (word.starts_with("sequences="))
      overrides.sequences = fla::cuda::bench::ParseInts(word.substr(10));
    number("tokens", overrides.tokens);
    if (word.starts_with("only=")) overrides.only = word.substr(5);
    overrides.uncut |= word == "uncut";
    overrides.projected |= word == "projected" || word == "softplus";
    overrides.softplus |= word == "softplus";
    overrides.ahead |= word == "ahead";
    overrides.behind |= word == "behind";
    overrides.split |= word == "split";
    overrides.whole |= word == "whole";
    overrides.narrow |= word == "narrow";
    overrides.one |= word == "one";
    overrides.two |= word == "two";
    using fla::cuda::StepKernel;
    for (const StepKernel kernel : {StepKernel::kAny, StepKernel::kLoads, StepKernel::kTiles}) {
      if (word == fla::cuda::bench::NameOf(kernel)) overrides.step_kernel = kernel;
    }
    overrides.replay |= word == "replay";
    overrides.copied |= word == "copied";
    overrides.f32 |= word == "f32";
    overrides.shuffled |= word == "shuffled";
  }
  if (prefill || !step) fla::cuda::bench::BenchPrefill(overrides);
  if (step || !prefill) fla::cuda::bench::BenchStep(overrides);
}
