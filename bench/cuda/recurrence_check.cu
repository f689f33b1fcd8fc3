// Compares RecurrentStep and ChunkedPrefill on the GPU with a double-precision loop over tokens, on
// a few fixed shapes and then on random ones, with ragged lengths, strided rows and decays from
// none to total. Exit code 1 if any case is out of bounds.
//
//   recurrence_check [random cases] [seed] [small] [step]
//                    small: for slow tools and recurrence_emulator; step: no prefills
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>

#include "bench/cuda/recurrence_inputs.h"
#include "bench/cuda/relative_error.h"

namespace fla::cuda::bench {
namespace {

// No chunk of a small prefill waits for its record's place, for the emulator runs one block at a
// time.
constexpr int kMaxSmallChunks = 64;

struct Case {
  RecurrenceSpec spec;
  std::vector<int> lengths;
  int num_slots = 0;
  int padding = 0;  // columns between rows
  float decay_mean = 0, decay_deviation = 0;
  bool bf16 = true, bf16_state = false, step = false;
  bool ahead = false, hopper = true, wide_slices = false;
  StepKernel step_kernel = StepKernel::kAny;  // where it can; else as planned
  bool many = false;                          // kLoads: as if there were many states
  int skipped = -1;                           // step: a sequence whose slot is -1
  bool projected = false;  // prefill: from RecurrenceProjections, with these norms and gates
  HeadNorm q_norm = HeadNorm::kNone, k_norm = HeadNorm::kNone;
  GateKind gates = GateKind::kLogSigmoid;
  int fused = 0;  // prefill by one kernel of this slice_width, where it can
  int record_places = 1, max_tracks = 1;
  int multiprocessors = 132, window_tokens = 0, segment_tokens = 0;
};

std::string Describe(const Case& c) {
  static const char* kDecays[] = {"none", "head", "token", "channel"};
  std::string text =
      std::string(c.step ? "step" : "prefill") + (c.bf16 ? " bf16" : " f32") +
      (c.bf16_state ? " state16" : "") + " " + kDecays[static_cast<int>(c.spec.decay)] +
      (c.spec.update == Update::kDelta ? " delta" : " additive") + " K" +
      std::to_string(c.spec.key_dim) + " V" + std::to_string(c.spec.value_dim) + " heads " +
      std::to_string(c.spec.heads) + "/" + std::to_string(c.spec.q_heads) + "/" +
      std::to_string(c.spec.k_heads) + "/" + std::to_string(c.spec.v_heads) + "/" +
      std::to_string(c.spec.decay_heads) + " decay " + std::to_string(c.decay_mean) + " padding " +
      std::to_string(c.padding) + (c.ahead ? " ahead" : "") + (c.hopper ? " hopper" : "") +
      (c.step_kernel == StepKernel::kTiles   ? " tiles"
       : c.step_kernel == StepKernel::kLoads ? " loads"
                                             : " any") +
      (c.many ? " many" : "") + (c.wide_slices ? " wide slices" : "") +
      (c.projected ? " norms " + std::to_string(static_cast<int>(c.q_norm)) +
                         std::to_string(static_cast<int>(c.k_norm)) + " gates " +
                         std::to_string(static_cast<int>(c.gates))
                   : "") +
      " fused " + std::to_string(c.fused) + " places " + std::to_string(c.record_places) +
      " tracks " + std::to_string(c.max_tracks) + " skipped " + std::to_string(c.skipped) +
      " multiprocessors " + std::to_string(c.multiprocessors) + " window " +
      std::to_string(c.window_tokens) + " segments " + std::to_string(c.segment_tokens) +
      " lengths";
  for (int length : c.lengths) text += " " + std::to_string(length);
  return text;
}

// Whether there are kernels that take such a call's projections.
bool CanProject(const RecurrenceSpec& spec) {
  return spec.decay == Decay::kPerChannel ||
         (spec.decay == Decay::kPerToken && spec.update == Update::kDelta);
}

// Inputs from a layer's projections, instead of those that a case has otherwise.
struct Projected {
  static constexpr float kEps = 1e-6f, kNormalizer = 16.0f, kClamp = -3.0f, kLowerBound = -5.0f;
  std::vector<float> q, k, gates, beta, a_log, dt_bias;
  float beta_scale = 1.0f;

  // Rows of `size` numbers become rows of some length, `x`, and, of length 1, what the norm makes.
  template <typename Round>
  static std::vector<float> Stretch(std::vector<float>& x, int size, std::mt19937& random,
                                    const Round& round) {
    std::vector<float> stretched(x.size());
    for (size_t row = 0; row < x.size(); row += size) {
      const float length = std::exp2(static_cast<float>(random() % 12) - 5.0f);
      double squares = 0;
      for (int i = 0; i < size; ++i) {
        const float value = stretched[row + i] = round(length * x[row + i]);
        squares += double{value} * value;
      }
      for (int i = 0; i < size; ++i) {
        x[row + i] = stretched[row + i] / std::sqrt(squares + double{kEps});
      }
    }
    return stretched;
  }
  // The log decay of a gate of `head`, column `column` of its row.
  double LogDecay(const Case& c, double gate, int head, int column) const {
    const double x = gate + (dt_bias.empty() ? 0.0f : dt_bias[column]);
    const double rate = a_log.empty() ? 1.0 : std::exp(double{a_log[head]});
    const auto softplus = [](double y) {
      return std::max(y, 0.0) + std::log1p(std::exp(-std::abs(y)));
    };
    switch (c.gates) {
      case GateKind::kLogSigmoid:
        return std::max<double>(-softplus(-x) / kNormalizer, kClamp);
      case GateKind::kSoftplus:
        return -rate * softplus(x);
      case GateKind::kBoundedSigmoid:
        return kLowerBound / (1.0 + std::exp(-rate * x));
    }
    return 0;
  }
};

// One head, in double; state [K, V].
void Reference(const Case& c, const std::vector<float>& q, const std::vector<float>& k,
               const std::vector<float>& v, const std::vector<float>& log_decay,
               const std::vector<float>& beta, int begin, int end, int h, double* state,
               std::vector<double>& out) {
  const RecurrenceSpec& s = c.spec;
  const int K = s.key_dim, V = s.value_dim;
  std::vector<double> u(V), o(V);
  for (int64_t token = begin; token < end; ++token) {
    const float* qt = &q[(token * s.q_heads + h / (s.heads / s.q_heads)) * K];
    const float* kt = &k[(token * s.k_heads + h / (s.heads / s.k_heads)) * K];
    const float* vt = &v[(token * s.v_heads + h / (s.heads / s.v_heads)) * V];
    for (int i = 0; i < K; ++i) {
      double g = 0;
      if (s.decay == Decay::kPerHead) g = log_decay[h];
      const int decay_head = s.decay_heads > 0 ? h / (s.heads / s.decay_heads) : 0;
      if (s.decay == Decay::kPerToken) g = log_decay[token * s.decay_heads + decay_head];
      if (s.decay == Decay::kPerChannel) {
        g = log_decay[(token * s.decay_heads + decay_head) * K + i];
      }
      const double alpha = std::exp(g);
      for (int j = 0; j < V; ++j) state[i * V + j] *= alpha;
    }
    for (int j = 0; j < V; ++j) u[j] = vt[j];
    if (s.update == Update::kDelta) {
      for (int i = 0; i < K; ++i) {
        for (int j = 0; j < V; ++j) u[j] -= kt[i] * state[i * V + j];
      }
      for (int j = 0; j < V; ++j) u[j] *= beta[token * s.heads + h];
    }
    std::fill(o.begin(), o.end(), 0.0);
    for (int i = 0; i < K; ++i) {
      for (int j = 0; j < V; ++j) {
        state[i * V + j] += kt[i] * u[j];
        o[j] += qt[i] * state[i * V + j];
      }
    }
    for (int j = 0; j < V; ++j) out[(token * s.heads + h) * V + j] = s.scale * o[j];
  }
}

template <typename T>
std::vector<T> ToRows(const std::vector<float>& x, int64_t cols, int64_t stride, T fill) {
  const int64_t rows = cols > 0 ? x.size() / cols : 0;
  std::vector<T> out(rows * stride, fill);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) out[i * stride + j] = static_cast<T>(x[i * cols + j]);
  }
  return out;
}

struct Errors {
  double out = 0, state = 0;
  StepKernel step_kernel = StepKernel::kAny;  // what a step went by
  std::string broken;  // what was written that should not be, or the other way round
};

template <typename T, typename S>
Errors RunCase(const Case& c, uint32_t seed) {
  const RecurrenceSpec& s = c.spec;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const int N = c.lengths.size(), K = s.key_dim, V = s.value_dim;
  std::vector<int> cu = {0};
  for (int length : c.lengths) cu.push_back(cu.back() + length);
  const int64_t T_tokens = cu.back();
  const auto rounded = [](float x) { return static_cast<float>(static_cast<T>(x)); };
  const auto vectors = [&](int64_t count, float scale) {
    std::vector<float> x(count);
    for (float& e : x) e = rounded(normal(random) * scale);
    return x;
  };
  // Neighbouring keys are alike, as in real models: the transform of a chunk is then far from 1.
  auto q = vectors(T_tokens * s.q_heads * K, 1.0f);
  auto k = vectors(T_tokens * s.k_heads * K, 1.0f);
  const auto common = vectors(s.k_heads * K, 0.7f);
  for (int64_t row = 0; row < T_tokens * s.k_heads; ++row) {
    float norm = 0;
    for (int i = 0; i < K; ++i) {
      k[row * K + i] += common[row % s.k_heads * K + i];
      norm += k[row * K + i] * k[row * K + i];
    }
    for (int i = 0; i < K; ++i) k[row * K + i] = rounded(k[row * K + i] / std::sqrt(norm));
  }
  const auto v = vectors(T_tokens * s.v_heads * V, 1.0f);
  std::vector<float> log_decay, beta(s.update == Update::kDelta ? T_tokens * s.heads : 0);
  if (s.decay == Decay::kPerHead) log_decay.resize(s.heads);
  if (s.decay == Decay::kPerToken) log_decay.resize(T_tokens * s.decay_heads);
  if (s.decay == Decay::kPerChannel) log_decay.resize(T_tokens * s.decay_heads * K);
  for (float& g : log_decay) g = -std::abs(c.decay_mean + c.decay_deviation * normal(random));
  if (c.decay_deviation > 0) {
    for (size_t i = 0; i < log_decay.size(); i += 97) log_decay[i] = i % 2 ? -300.0f : 0.0f;
  }
  for (float& b : beta) b = 1.0f / (1.0f + std::exp(-normal(random)));
  Projected from;
  if (c.projected) {
    if (c.q_norm == HeadNorm::kL2) from.q = Projected::Stretch(q, K, random, rounded);
    if (c.k_norm == HeadNorm::kL2) from.k = Projected::Stretch(k, K, random, rounded);
    from.gates = vectors(log_decay.size(), 3.0f);
    for (size_t i = 0; i < from.gates.size(); i += 89) from.gates[i] = i % 2 ? -70.0f : 70.0f;
    if (c.gates != GateKind::kLogSigmoid) {
      const int cols = log_decay.size() / std::max<int64_t>(T_tokens, 1);
      from.a_log.resize(s.decay_heads);
      for (float& a : from.a_log) a = normal(random);
      from.dt_bias.resize(cols);
      for (float& b : from.dt_bias) b = 3.0f * normal(random) - 3.0f;
    }
    for (size_t i = 0; i < log_decay.size(); ++i) {
      const int column = i % (log_decay.size() / T_tokens);
      log_decay[i] = from.LogDecay(c, from.gates[i],
                                   column * s.decay_heads * T_tokens / log_decay.size(), column);
    }
    from.beta_scale = random() % 2 ? 1.0f : 2.0f;
    from.beta = vectors(beta.size(), 1.0f);
    for (size_t i = 0; i < beta.size(); ++i) {
      beta[i] = from.beta_scale / (1.0 + std::exp(-double{from.beta[i]}));
    }
  }

  std::vector<int> slots(c.num_slots);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), random);
  slots.resize(N);
  if (c.skipped >= 0) slots[c.skipped] = -1;
  std::vector<float> state(static_cast<int64_t>(c.num_slots) * s.heads * K * V);
  for (float& e : state) e = static_cast<float>(static_cast<S>(normal(random)));
  std::vector<double> wanted_state(state.begin(), state.end()), wanted(T_tokens * s.heads * V);
  std::vector<std::thread> threads;
  const int num_threads = std::min<int>(std::thread::hardware_concurrency(), N * s.heads);
  for (int first = 0; first < num_threads; ++first) {
    threads.emplace_back([&, first] {
      for (int job = first; job < N * s.heads; job += num_threads) {
        const int n = job / s.heads, h = job % s.heads;
        if (slots[n] < 0) continue;
        Reference(c, q, k, v, log_decay, beta, cu[n], cu[n + 1], h,
                  &wanted_state[(static_cast<int64_t>(slots[n]) * s.heads + h) * K * V], wanted);
      }
    });
  }
  for (auto& thread : threads) thread.join();

  const T nan = static_cast<T>(NAN);
  const auto upload = [&](const std::vector<float>& x, int64_t cols) {
    return DeviceArray<T>(ToRows<T>(x, cols, cols + c.padding, nan));
  };
  const DeviceArray<T> device_q(upload(from.q.empty() ? q : from.q, s.q_heads * K)),
      device_k(upload(from.k.empty() ? k : from.k, s.k_heads * K)),
      device_v(upload(v, s.v_heads * V));
  const DeviceArray<float> device_decay(log_decay), device_beta(beta);
  const int64_t gate_cols = from.gates.size() / std::max<int64_t>(T_tokens, 1);
  const DeviceArray<T> device_gates(upload(from.gates, gate_cols)),
      device_projected_beta(upload(from.beta, s.heads));
  const DeviceArray<float> device_a_log(from.a_log), device_dt_bias(from.dt_bias);
  const DeviceArray<S> device_state(ToRows<S>(state, V, V, S{}));
  const DeviceArray<int> device_slots(slots), device_cu(cu);
  const int64_t out_cols = s.heads * V;
  const DeviceArray<T> device_out(std::vector<T>(T_tokens * (out_cols + c.padding), nan));
  const auto view = [&](const DeviceArray<T>& x, int64_t cols) {
    return Matrix{x.data(), DTypeOf<T>(), T_tokens, cols, cols + c.padding};
  };
  RecurrenceArgs args;
  args.spec = s;
  args.q = view(device_q, s.q_heads * K);
  args.k = view(device_k, s.k_heads * K);
  args.v = view(device_v, s.v_heads * V);
  args.log_decay = device_decay.data();
  args.beta = device_beta.data();
  args.state = device_state.data();
  args.state_dtype = DTypeOf<S>();
  args.slots = device_slots.data();
  args.cu_seqlens = device_cu.data();
  args.cu_seqlens_host = cu.data();
  args.num_sequences = N;
  args.out = view(device_out, out_cols);
  Errors errors;
  if (c.projected && T_tokens > 0) {
    RecurrenceProjections& projections = args.projections;
    projections.q_norm = c.q_norm;
    projections.k_norm = c.k_norm;
    projections.norm_eps = Projected::kEps;
    if (!from.gates.empty()) {
      LogDecayArgs& gates = projections.log_decay;
      gates.kind = c.gates;
      gates.x = view(device_gates, gate_cols);
      gates.heads = s.decay_heads;
      gates.a_log = device_a_log.data();
      gates.dt_bias = device_dt_bias.data();
      gates.normalizer = Projected::kNormalizer;
      gates.clamp_min = Projected::kClamp;
      gates.lower_bound = Projected::kLowerBound;
      args.log_decay = nullptr;
    }
    if (s.update == Update::kDelta) {
      projections.beta = view(device_projected_beta, s.heads);
      projections.beta_scale = from.beta_scale;
      args.beta = nullptr;
    }
    if (!HasProjectedPrepare(args)) errors.broken = "no kernels for the projections";
  }
  if (c.step) {
    // Small problems never take tiles, and shapes in use only what is made for them: force others.
    const RecurrenceParams params = ParamsOf(args);
    StepPlan plan = PlanStep(params, DTypeOf<T>(), c.multiprocessors, IsHopper());
    if (c.step_kernel == StepKernel::kAny ||
        (c.step_kernel == StepKernel::kTiles && IsHopper() && HasTileStep(params, DTypeOf<T>()))) {
      plan.kernel = c.step_kernel;
      if (plan.kernel == StepKernel::kAny) plan.columns = std::min(plan.columns, 32);
    }
    if (plan.kernel == StepKernel::kLoads && c.many) plan = PlanManyLoads(params);
    errors.step_kernel = plan.kernel;
    LaunchRecurrent(params, DTypeOf<T>(), plan, nullptr);
  } else {
    // Small problems plan alike on every GPU: pretend to other sizes, and to small windows.
    PrefillPlan plan = PlanPrefill(args, c.multiprocessors, c.hopper);
    plan.ahead = c.ahead;
    if (c.window_tokens > 0) plan.window_tokens = c.window_tokens;
    // What the plan would never cut, being too short: the borders of segments, and M, are the same.
    const int chunk = plan.wide ? kWideChunk : kChunk;
    if (c.segment_tokens > 0) plan.segment_tokens = (c.segment_tokens + chunk - 1) / chunk * chunk;
    // As planned: of one sequence that is cut, on the GPUs that begin a kernel early.
    plan.late = IsHopper() && !plan.ahead && c.lengths.size() == 1 && plan.segment_tokens > 0 &&
                s.update == Update::kDelta;
    if (!plan.wide && (c.wide_slices || plan.segment_tokens > 0)) {
      plan.slice_width = 2;
      plan.key_parts = std::max(1, MaxKeyDim(s.key_dim) / 128);
      plan.slices_per_block = std::min(plan.slices_per_block, 4 / plan.key_parts);
    }
    plan.tracks = 0;
    if (IsHopper() && c.fused > 0 && CanFuse(args)) {
      plan.tracks = std::min(MostTracks(args, c.fused, Multiprocessors()), c.max_tracks);
    }
    if (plan.tracks > 0) {
      plan.slice_width = c.fused;
      plan.record_places = c.record_places;
      plan.wide = plan.late = false;
    }
    PlanShortPrompt(args, c.multiprocessors, c.hopper && IsHopper(), plan);
    const size_t bytes = PrefillScratchBytes(args, plan);
    const DeviceArray<char> scratch(bytes);
    if (bytes > 0) Check(cudaMemset(scratch.data(), 0xff, bytes), "poison");
    LaunchChunkedPrefill(args, plan, scratch.data(), nullptr);
    Check(cudaDeviceSynchronize(), "synchronize");
  }
  Check(cudaDeviceSynchronize(), "synchronize");

  const auto out = device_out.Download();
  const auto new_state = device_state.Download();
  RelativeError of_out, of_state;
  for (int64_t i = 0; i < T_tokens; ++i) {
    for (int64_t j = 0; j < out_cols + c.padding; ++j) {
      const float x = static_cast<float>(out[i * (out_cols + c.padding) + j]);
      if (c.step && slots[i] < 0) {
        if (!std::isnan(x)) errors.broken = "wrote the out of a skipped sequence";
      } else if (j < out_cols) {
        of_out.Add(x, wanted[i * out_cols + j]);
      } else if (!std::isnan(x)) {
        errors.broken = "wrote between the rows of out";
      }
    }
  }
  const int64_t slot_size = static_cast<int64_t>(s.heads) * K * V;
  for (int slot = 0; slot < c.num_slots; ++slot) {
    const auto position = std::find(slots.begin(), slots.end(), slot);
    const bool touched = position != slots.end() && c.lengths[position - slots.begin()] > 0;
    for (int64_t i = slot * slot_size; i < (slot + 1) * slot_size; ++i) {
      const float x = static_cast<float>(new_state[i]);
      if (touched) of_state.Add(x, wanted_state[i]);
      if (!touched && x != state[i]) errors.broken = "wrote to a slot of no sequence";
    }
  }
  errors.out = of_out.value();
  errors.state = of_state.value();
  return errors;
}

Case RandomCase(int index, bool small, bool only_steps, std::mt19937& random) {
  const auto pick = [&](std::initializer_list<int> choices) {
    return *(choices.begin() + random() % choices.size());
  };
  Case c;
  RecurrenceSpec& s = c.spec;
  s.decay = static_cast<Decay>(index % 4);
  s.update = static_cast<Update>(index / 4 % 2);
  c.step = only_steps || index / 8 % 4 == 3;
  c.bf16 = index / 8 % 4 != 2 && (index / 32 % 2 == 0 || !c.step);
  c.bf16_state = c.bf16 && random() % 4 == 0;
  s.key_dim = random() % 3 == 0 ? 16 * (1 + random() % 16) : pick({32, 64, 96, 128, 256});
  s.value_dim =
      random() % 3 == 0 ? 16 * (1 + random() % (small ? 5 : 32)) : pick({32, 64, 128, 192, 512});
  c.step_kernel = static_cast<StepKernel>(random() % 3);
  const bool loads = c.step && c.step_kernel == StepKernel::kLoads;
  if (loads) {
    s.key_dim = pick({64, 128, 256});
    s.value_dim = pick({32, 64, 96, 128, 512});
    c.many = random() % 2 == 0;
  }
  s.heads = pick({1, 2, 4, 6});
  if (small) {
    s.value_dim = std::min(s.value_dim, 96);
    s.heads = std::min(s.heads, 2);
  }
  const auto divisor = [&] {
    int divisor = s.heads;
    if (random() % 3 == 0) {
      do {
        divisor = 1 + random() % s.heads;
      } while (s.heads % divisor != 0);
    }
    return divisor;
  };
  s.q_heads = divisor();
  s.k_heads = random() % 2 ? s.q_heads : divisor();
  s.v_heads = divisor();
  s.decay_heads = divisor();
  s.scale = 1.0f / std::sqrt(static_cast<float>(s.key_dim));
  const int N = 1 + random() % (small ? 3 : 6);
  for (int n = 0; n < N; ++n) {
    c.lengths.push_back(c.step ? 1 : pick({0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 129}));
  }
  if (!c.step && index % 5 == 0)
    c.lengths.push_back(small ? 130 + random() % 60 : 700 + random() % 300);
  // One sequence of several segments.
  if (!c.step && N == 1 && random() % 2) c.lengths = {130 + static_cast<int>(random() % 200)};
  if (c.step && random() % 4 == 0) c.skipped = random() % N;
  c.ahead = random() % 2 == 0;
  c.hopper = random() % 4 != 0;
  c.multiprocessors = pick({1, 8, 132});
  c.window_tokens = pick({0, 0, 48, 160});
  c.segment_tokens = pick({0, 16, 32, 48, 128});
  c.wide_slices = random() % 2 == 0;
  c.fused = random() % 3;
  c.record_places = small ? kMaxSmallChunks : pick({1, 2, 8, 24});
  c.max_tracks = 1 + random() % 4;
  c.num_slots = c.lengths.size() + 2;
  c.padding = loads ? pick({0, 8, 16}) : pick({0, 0, 8, 16, 2, 3});
  c.projected = random() % 2 && !c.step && c.bf16 && CanProject(s);
  const bool may_norm = s.decay == Decay::kPerChannel;
  const auto norm = [&] { return random() % 3 && may_norm ? HeadNorm::kL2 : HeadNorm::kNone; };
  c.q_norm = norm();
  c.k_norm = norm();
  c.gates = static_cast<GateKind>(random() % 3);
  c.decay_mean = static_cast<float>(pick({0, 1, 20})) * 0.05f;
  c.decay_deviation = static_cast<float>(pick({0, 1, 40, 2000})) * 0.05f;
  return c;
}

// Prefills of kinds that random ones seldom are: chunks of 64 tokens whose sequence is cut, so that
// its last segment's are made late, blocks of two slices, and one kernel.
std::vector<Case> FixedCases(bool small) {
  Case c;
  c.spec.decay = Decay::kPerToken;
  c.spec.update = Update::kDelta;
  c.spec.heads = c.spec.q_heads = c.spec.k_heads = c.spec.v_heads = c.spec.decay_heads = 2;
  c.spec.key_dim = c.spec.value_dim = 128;
  c.spec.scale = 1.0f / std::sqrt(128.0f);
  c.decay_mean = c.decay_deviation = 0.05f;
  c.lengths = {300};
  c.num_slots = 4;
  std::vector<Case> cases;
  c.segment_tokens = 64;
  cases.push_back(c);
  c.window_tokens = 192;
  cases.push_back(c);
  c.multiprocessors = 1;  // two slices
  cases.push_back(c);
  c.window_tokens = c.segment_tokens = 0;
  c.lengths = {300, 70};
  cases.push_back(c);
  c.spec.update = Update::kAdditive;
  cases.push_back(c);
  c.spec.decay = Decay::kPerChannel;
  c.record_places = small ? kMaxSmallChunks : 1;
  for (Update update : {Update::kAdditive, Update::kDelta}) {
    for (int slice_width : {1, 2}) {
      c.spec.update = update;
      c.fused = slice_width;
      cases.push_back(c);
    }
  }
  return cases;
}

int Main(int argc, char** argv) {
  const int random_cases = argc > 1 ? std::atoi(argv[1]) : 256;
  std::mt19937 random(argc > 2 ? std::atoi(argv[2]) : 1);
  bool small = false, only_steps = false;
  for (int i = 3; i < argc; ++i) {
    small |= std::string(argv[i]) == "small";
    only_steps |= std::string(argv[i]) == "step";
  }
  int failed = 0, tiles = 0, loads = 0;
  double worst[2][2] = {};  // [bf16][out, state]
  const std::vector<Case> fixed = only_steps ? std::vector<Case>() : FixedCases(small);
  const int num_fixed = fixed.size(), cases = random_cases + num_fixed;
  for (int i = 0; i < cases; ++i) {
    const Case c = i < num_fixed ? fixed[i] : RandomCase(i - num_fixed, small, only_steps, random);
    const uint32_t seed = random();
    const Errors errors = !c.bf16        ? RunCase<float, float>(c, seed)
                          : c.bf16_state ? RunCase<__nv_bfloat16, __nv_bfloat16>(c, seed)
                                         : RunCase<__nv_bfloat16, float>(c, seed);
    tiles += errors.step_kernel == StepKernel::kTiles;
    loads += errors.step_kernel == StepKernel::kLoads;
    const double bound = c.bf16 ? 8e-3 : 5e-6;
    worst[c.bf16][0] = std::max(worst[c.bf16][0], errors.out);
    worst[c.bf16][1] = std::max(worst[c.bf16][1], errors.state);
    if (errors.out <= bound && errors.state <= bound && errors.broken.empty()) continue;
    if (++failed <= 40) {
      std::printf("FAILED out %.1e state %.1e %s: %s\n", errors.out, errors.state,
                  errors.broken.c_str(), Describe(c).c_str());
    }
  }
  std::printf(
      "%d cases (steps: %d by tiles, %d by loads), %d failed; worst bf16 out %.2e state %.2e, f32 "
      "out %.2e state "
      "%.2e\n",
      cases, tiles, loads, failed, worst[1][0], worst[1][1], worst[0][0], worst[0][1]);
  return failed > 0;
}

}  // namespace
}  // namespace fla::cuda::bench

int main(int argc, char** argv) { return fla::cuda::bench::Main(argc, argv); }
