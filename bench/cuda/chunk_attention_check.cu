// Compares ChunkAttention on the GPU with its definition in double precision, on random shapes,
// sequences cut into random calls, strided rows and poisoned memory. Exit code 1 if any case is out
// of bounds.
//
//   chunk_attention_check [cases] [seed]
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

#include "bench/cuda/recurrence_inputs.h"
#include "bench/cuda/relative_error.h"
#include "kernels/cuda/chunk_attention_launch.h"
#include "kernels/reference/chunk_attention.h"

namespace fla::cuda::bench {
namespace {

struct Case {
  ChunkAttentionSpec spec;
  std::vector<int> lengths;
  bool bf16 = false, bf16_state = false;
  int most = 0;     // tokens a call of one sequence
  int padding = 0;  // columns between rows
};

std::string Describe(const Case& c) {
  std::string text = std::string(c.spec.rule == ChunkRule::kLinear ? "linear" : "softmax") +
                     (c.bf16 ? " bf16" : " f32") + (c.bf16_state ? " state16" : "") + " C" +
                     std::to_string(c.spec.chunk) + " H" + std::to_string(c.spec.heads) + " K" +
                     std::to_string(c.spec.key_dim) + " V" + std::to_string(c.spec.value_dim) +
                     " calls of " + std::to_string(c.most) + " padding " +
                     std::to_string(c.padding) + " lengths";
  for (int length : c.lengths) text += " " + std::to_string(length);
  return text;
}

// The worst relative error of outputs, S and z, or infinity for a write where none belongs.
template <typename T, typename S>
double RunCase(const Case& c, uint32_t seed) {
  const ChunkAttentionSpec& spec = c.spec;
  const int N = c.lengths.size(), H = spec.heads, K = spec.key_dim, V = spec.value_dim;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto draw = [&](int64_t count, float mean) {
    std::vector<double> x(count);
    for (double& e : x) e = static_cast<float>(static_cast<T>(normal(random) + mean));
    return x;
  };
  // Of one direction, so that no divisor is near 0.
  std::vector<std::vector<double>> q, k, v;
  for (int length : c.lengths) {
    q.push_back(draw(length * H * K, 1.5f));
    k.push_back(draw(length * H * K, 1.5f));
    v.push_back(draw(length * H * V, 0.0f));
  }
  std::vector<int> slots(N + 2);
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), random);
  slots.resize(N);

  const int64_t heads = static_cast<int64_t>(N + 2) * H;
  const DeviceArray<S> state(std::vector<S>(heads * K * V, static_cast<S>(0.0f)));
  const DeviceArray<float> normalizer(std::vector<float>(heads * K, 0.0f));
  const DeviceArray<float> open(std::vector<float>(heads * OpenChunkFloats(spec),
                                                   spec.rule == ChunkRule::kSoftmax ? NAN : 0.0f));
  const DeviceArray<int> device_slots(slots);
  std::vector<std::vector<float>> out(N);
  std::vector<int> at(N, 0);
  bool stray = false;
  while (at != c.lengths) {
    std::vector<int> cu = {0}, positions, from = at;
    for (int n = 0; n < N; ++n) {
      at[n] = std::min<int>(c.lengths[n], at[n] + random() % (c.most + 1));
      for (int t = from[n]; t < at[n]; ++t) positions.push_back(t);
      cu.push_back(positions.size());
    }
    const int tokens = cu.back();
    if (tokens == 0) continue;
    const T nan = static_cast<T>(NAN);
    const auto upload = [&](const std::vector<std::vector<double>>& x, int cols) {
      std::vector<T> rows(static_cast<int64_t>(tokens) * (cols + c.padding), nan);
      for (int n = 0; n < N; ++n) {
        for (int t = from[n]; t < at[n]; ++t) {
          for (int i = 0; i < cols; ++i) {
            rows[static_cast<int64_t>(cu[n] + t - from[n]) * (cols + c.padding) + i] =
                static_cast<T>(static_cast<float>(x[n][static_cast<int64_t>(t) * cols + i]));
          }
        }
      }
      return rows;
    };
    const DeviceArray<T> device_q(upload(q, H * K)), device_k(upload(k, H * K)),
        device_v(upload(v, H * V));
    const DeviceArray<T> device_out(
        std::vector<T>(static_cast<int64_t>(tokens) * (H * V + c.padding), nan));
    const DeviceArray<int> device_cu(cu), device_positions(positions);
    const auto view = [&](const DeviceArray<T>& x, int64_t cols) {
      return Matrix{x.data(), DTypeOf<T>(), tokens, cols, cols + c.padding};
    };
    ChunkAttentionArgs args;
    args.spec = spec;
    args.q = view(device_q, H * K);
    args.k = view(device_k, H * K);
    args.v = view(device_v, H * V);
    args.state = state.data();
    args.state_dtype = DTypeOf<S>();
    args.normalizer = normalizer.data();
    args.open = open.data();
    args.positions = device_positions.data();
    args.slots = device_slots.data();
    args.cu_seqlens = device_cu.data();
    args.cu_seqlens_host = cu.data();
    args.num_sequences = N;
    args.out = view(device_out, H * V);
    LaunchChunkAttention(args, nullptr);
    Check(cudaDeviceSynchronize(), "synchronize");
    const std::vector<T> rows = device_out.Download();
    for (int n = 0; n < N; ++n) {
      for (int t = cu[n]; t < cu[n + 1]; ++t) {
        for (int i = 0; i < H * V + c.padding; ++i) {
          const float x =
              static_cast<float>(rows[static_cast<int64_t>(t) * (H * V + c.padding) + i]);
          if (i < H * V) {
            out[n].push_back(x);
          } else if (!std::isnan(x)) {
            stray = true;
          }
        }
      }
    }
  }

  double worst = stray ? INFINITY : 0;
  const std::vector<S> all_states = state.Download();
  const std::vector<float> all_z = normalizer.Download();
  for (int n = 0; n < N; ++n) {
    const auto wanted = reference::ChunkAttention({spec, q[n], k[n], v[n]});
    RelativeError of_out, of_state, of_z;
    for (size_t i = 0; i < wanted.out.size(); ++i) of_out.Add(out[n][i], wanted.out[i]);
    for (size_t i = 0; i < wanted.state.size(); ++i) {
      of_state.Add(static_cast<float>(all_states[slots[n] * wanted.state.size() + i]),
                   wanted.state[i]);
    }
    for (size_t i = 0; i < wanted.normalizer.size(); ++i) {
      of_z.Add(all_z[slots[n] * wanted.normalizer.size() + i], wanted.normalizer[i]);
    }
    for (const RelativeError& error : {of_out, of_state, of_z})
      worst = std::max(worst, error.value());
  }
  for (int slot = 0; slot < N + 2; ++slot) {
    if (std::count(slots.begin(), slots.end(), slot) > 0) continue;
    for (int i = 0; i < H * K * V; ++i) {
      if (static_cast<float>(all_states[static_cast<int64_t>(slot) * H * K * V + i]) != 0) {
        worst = INFINITY;
      }
    }
  }
  return worst;
}

Case RandomCase(std::mt19937& random) {
  const auto one_of = [&](std::initializer_list<int> values) {
    return values.begin()[random() % values.size()];
  };
  Case c;
  c.spec.rule = random() % 2 == 0 ? ChunkRule::kLinear : ChunkRule::kSoftmax;
  c.spec.chunk = one_of({1, 7, 8, 16, 32, 33, 64, 128});
  c.spec.heads = one_of({1, 2});
  c.spec.key_dim = one_of({16, 24, 32, 64, 128, 5});
  c.spec.value_dim = one_of({16, 32, 48, 64, 128, 3});
  c.spec.scale = 1.0f / std::sqrt(static_cast<float>(c.spec.key_dim));
  c.spec.eps = 1e-8f;
  const int C = c.spec.chunk;
  for (int n = 1 + random() % 4; n > 0; --n) {
    c.lengths.push_back(std::min(one_of({1, C - 1, C, C + 1, 3 * C + 3}), 140));
  }
  c.bf16 = random() % 2 == 0;
  c.bf16_state = c.bf16 && random() % 2 == 0;
  c.most = one_of({3, C, 3 * C, 1000});
  c.padding = one_of({0, 5, 8});
  return c;
}

int Run(int cases, uint32_t seed) {
  std::mt19937 random(seed);
  int failures = 0;
  double worst_f32 = 0, worst_bf16 = 0;
  for (int i = 0; i < cases; ++i) {
    const Case c = RandomCase(random);
    const uint32_t case_seed = random();
    const double error = c.bf16_state ? RunCase<__nv_bfloat16, __nv_bfloat16>(c, case_seed)
                         : c.bf16     ? RunCase<__nv_bfloat16, float>(c, case_seed)
                                      : RunCase<float, float>(c, case_seed);
    // A state of bf16 is rounded whenever a call closes a chunk.
    const double bound = c.bf16_state ? 2e-2 : c.bf16 ? 4e-3 : 5e-6;
    double& worst = c.bf16 ? worst_bf16 : worst_f32;
    worst = std::max(worst, error);
    if (error <= bound) continue;
    ++failures;
    std::printf("FAILED %g > %g: %s\n", error, bound, Describe(c).c_str());
  }
  std::printf("%d cases, %d failed; worst relative error f32 %.2g, bf16 %.2g\n", cases, failures,
              worst_f32, worst_bf16);
  return failures > 0 ? 1 : 0;
}

}  // namespace
}  // namespace fla::cuda::bench

int main(int argc, char** argv) {
  return fla::cuda::bench::Run(argc > 1 ? std::atoi(argv[1]) : 100,
                               argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 1);
}
