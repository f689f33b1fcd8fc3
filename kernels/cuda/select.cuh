// Selection inside one row of logits by one block of kSelectThreads threads: the k most probable
// tokens, or the most probable ones that hold a given mass, without sorting the row.
//
// Tokens are ordered by rank keys: larger logit first, then lower id. No two keys are equal, so a
// cut is one key and ties need no care. Probabilities are summed as integers (kWeightOne for the
// most probable token), so that sums do not depend on the order in which threads arrive: the same
// row gives the same token in every run and in every batch.
#pragma once

#include <cstdint>

namespace fla::cuda {

constexpr int kSelectThreads = 1024;
static_assert(kSelectThreads == 32 * 32);  // BlockReduce: a lane for each warp
constexpr int kBins = 2 * kSelectThreads;
constexpr float kBinsPerNat = 64.0f;            // of the first histogram: it spans 32 nats
constexpr float kWeightOne = 1099511627776.0f;  // 2^40: sums over 2^23 tokens fit in 64 bits

using RankKey = uint64_t;

__device__ inline RankKey MakeRankKey(float logit, int token) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 and 0 are the same logit
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<RankKey>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(token));
}
__device__ inline int TokenOf(RankKey key) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key));
}
__device__ inline float LogitOf(RankKey key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

// A row of logits and the scale of its probabilities: exp((logit - largest) * inverse_temperature).
struct LogitRow {
  const float* logits;  // [vocab]
  int vocab;
  float largest;
  float inverse_temperature;

  __device__ float Odds(float logit) const {  // in [0, 1], relative to the most probable token
    return __expf((logit - largest) * inverse_temperature);
  }
  __device__ static uint64_t WeightOf(float odds) { return __float2ull_rz(odds * kWeightOne); }
  __device__ uint64_t Weight(float logit) const { return WeightOf(Odds(logit)); }
};

// Shared memory of the functions below. None of them may be called from divergent code.
struct SelectMemory {
  union {
    struct {
      unsigned long long weights[kBins];
      unsigned counts[kBins];
    } histogram;
    RankKey keys[kBins];
  };
  uint64_t warp_values[32];
  uint64_t before;
  int index;
  int num_keys;
};

// Logits that a thread has loaded together: four 16-byte loads are in flight, for a block has a
// multiprocessor's memory pipeline to itself.
struct LogitPiece {
  static constexpr int kVectors = 4;

  float4 vectors[kVectors];
  int num_vectors;  // that are there
  int token;        // of the first vector's first logit

  // Of the first logit of vector i.
  __device__ static int TokenAt(int token, int i) { return token + 4 * kSelectThreads * i; }
};

// Gives every logit of the row to f_piece(piece) or, at an end that no vector covers, to
// f(logit, token), each once. A thread gets ascending tokens, the same wherever the row lies: what
// it sums up does not depend on the row's company.
template <typename FPiece, typename F>
__device__ void ForEachPiece(const float* logits, int vocab, FPiece f_piece, F f) {
  constexpr int kDepth = LogitPiece::kVectors;
  const bool aligned = reinterpret_cast<uintptr_t>(logits) % 16 == 0;
  const int vectors = vocab / 4;
  for (int base = threadIdx.x; base < vectors; base += kDepth * kSelectThreads) {
    LogitPiece piece;
    piece.token = 4 * base;
    piece.num_vectors = min(kDepth, (vectors - base + kSelectThreads - 1) / kSelectThreads);
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (i >= piece.num_vectors) break;
      const float* const source = logits + LogitPiece::TokenAt(piece.token, i);
      if (aligned) {
        piece.vectors[i] = *reinterpret_cast<const float4*>(source);
      } else {
        piece.vectors[i] = make_float4(source[0], source[1], source[2], source[3]);
      }
    }
    f_piece(piece);
  }
  for (int token = 4 * vectors + threadIdx.x; token < vocab; token += kSelectThreads) {
    f(logits[token], token);
  }
}

// Calls f(logit, token) for every token of the row, each once.
template <typename F>
__device__ void ForEachLogit(const float* logits, int vocab, F f) {
  const auto f_piece = [&](const LogitPiece& piece) {
#pragma unroll
    for (int i = 0; i < LogitPiece::kVectors; ++i) {
      if (i >= piece.num_vectors) break;
      const int token = LogitPiece::TokenAt(piece.token, i);
      f(piece.vectors[i].x, token);
      f(piece.vectors[i].y, token + 1);
      f(piece.vectors[i].z, token + 2);
      f(piece.vectors[i].w, token + 3);
    }
  };
  ForEachPiece(logits, vocab, f_piece, f);
}

// combine over the block of every thread's value, in a fixed order; the same bits in every thread.
template <typename F>
__device__ uint64_t BlockReduce(SelectMemory& memory, uint64_t value, F combine) {
  for (int offset = 16; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) memory.warp_values[threadIdx.x / 32] = value;
  __syncthreads();
  value = memory.warp_values[threadIdx.x % 32];
  for (int offset = 16; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}
__device__ inline uint64_t BlockSum(SelectMemory& memory, uint64_t value) {
  return BlockReduce(memory, value, [](uint64_t a, uint64_t b) { return a + b; });
}
__device__ inline uint64_t BlockMax(SelectMemory& memory, uint64_t value) {
  return BlockReduce(memory, value, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
}

// Items 0 .. kBins - 1, thread t holding items 2t and 2t + 1: the first whose running sum, itself
// included, reaches `target`, and the sum before it. Index kBins where the total is less.
struct Reached {
  int index;
  uint64_t before;
};
__device__ inline Reached FindReaching(SelectMemory& memory, uint64_t even, uint64_t odd,
                                       uint64_t target) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint64_t inclusive = even + odd;
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t lower = __shfl_up_sync(0xffffffffu, inclusive, offset);
    if (lane >= offset) inclusive += lower;
  }
  __syncthreads();
  if (lane == 31) memory.warp_values[warp] = inclusive;
  if (threadIdx.x == 0) memory.index = kBins;
  __syncthreads();
  uint64_t before = inclusive - even - odd;
  for (int w = 0; w < warp; ++w) before += memory.warp_values[w];
  if (before < target && before + even + odd >= target) {
    const bool in_even = before + even >= target;
    memory.index = 2 * threadIdx.x + (in_even ? 0 : 1);
    memory.before = before + (in_even ? 0 : even);
  }
  __syncthreads();
  const Reached reached = {memory.index, memory.before};
  __syncthreads();
  return reached;
}

// Sorts keys[0 .. count), count <= kBins, in descending order. keys[count .. ) become 0.
__device__ inline void SortKeys(SelectMemory& memory, int count) {
  int size = 2;
  while (size < count) size *= 2;
  for (int i = count + threadIdx.x; i < kBins; i += kSelectThreads) memory.keys[i] = 0;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {
    for (int distance = run / 2; distance > 0; distance /= 2) {
      const int low = 2 * threadIdx.x - (threadIdx.x & (distance - 1));
      if (low + distance < size) {
        const RankKey a = memory.keys[low], b = memory.keys[low + distance];
        const bool descending = (low & run) == 0;
        if (descending ? a < b : a > b) {
          memory.keys[low] = b;
          memory.keys[low + distance] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Copies the keys that `wanted` accepts, at most kBins of them, to memory.keys, sorted; returns
// their number.
template <typename F>
__device__ int CollectKeys(SelectMemory& memory, const LogitRow& row, F wanted) {
  __syncthreads();
  if (threadIdx.x == 0) memory.num_keys = 0;
  __syncthreads();
  ForEachLogit(row.logits, row.vocab, [&](float logit, int token) {
    const RankKey key = MakeRankKey(logit, token);
    if (wanted(logit, key)) memory.keys[atomicAdd(&memory.num_keys, 1)] = key;
  });
  __syncthreads();
  const int count = memory.num_keys;
  SortKeys(memory, count);
  return count;
}

// What FindCut sums up from the most probable token downwards.
enum class Measure { kCount, kWeight };

// The key of the first token, in descending order, at which the running count (kCount) or weight
// (kWeight) of the row reaches `target` >= 1; 0 if the whole row does not reach it.
//
// A histogram of bins of equal width in logit finds the bin of the cut. Where it holds too many
// tokens to sort, histograms of the remaining range of keys follow, each kBins times finer.
template <Measure kMeasure>
__device__ RankKey FindCut(SelectMemory& memory, const LogitRow& row, uint64_t target) {
  const float bin_scale =
      kBinsPerNat * (kMeasure == Measure::kWeight ? row.inverse_temperature : 1.0f);
  const auto coarse_bin = [&](float logit) {
    return static_cast<int>(fminf((row.largest - logit) * bin_scale, kBins - 1.0f));
  };
  // Fills the histogram, then steps into the bin that reaches the target.
  const auto enter_bin = [&](auto bin_of) {
    __syncthreads();
    for (int bin = threadIdx.x; bin < kBins; bin += kSelectThreads) {
      memory.histogram.weights[bin] = 0;
      memory.histogram.counts[bin] = 0;
    }
    __syncthreads();
    ForEachLogit(row.logits, row.vocab, [&](float logit, int token) {
      const int bin = bin_of(logit, token);
      if (bin < 0) return;
      if constexpr (kMeasure == Measure::kWeight) {
        const uint64_t weight = row.Weight(logit);
        if (weight == 0) return;  // cannot reach the target
        atomicAdd(&memory.histogram.weights[bin], static_cast<unsigned long long>(weight));
      }
      atomicAdd(&memory.histogram.counts[bin], 1u);
    });
    __syncthreads();
    const auto sum_of = [&](int bin) -> uint64_t {
      return kMeasure == Measure::kWeight ? memory.histogram.weights[bin]
                                          : memory.histogram.counts[bin];
    };
    const Reached reached =
        FindReaching(memory, sum_of(2 * threadIdx.x), sum_of(2 * threadIdx.x + 1), target);
    target -= reached.index < kBins ? reached.before : 0;
    return reached.index;
  };

  const int cut_bin = enter_bin([&](float logit, int) { return coarse_bin(logit); });
  if (cut_bin == kBins) return 0;
  int count = static_cast<int>(memory.histogram.counts[cut_bin]);
  RankKey low = 0, high = ~RankKey{0};
  if (count > kBins) {
    RankKey smallest = ~RankKey{0}, largest = 0;
    ForEachLogit(row.logits, row.vocab, [&](float logit, int token) {
      if (coarse_bin(logit) != cut_bin) return;
      const RankKey key = MakeRankKey(logit, token);
      smallest = key < smallest ? key : smallest;
      largest = key > largest ? key : largest;
    });
    high = BlockMax(memory, largest);
    low = ~BlockMax(memory, ~smallest);
  }
  while (count > kBins) {
    int shift = 0;
    while ((high - low) >> shift >= kBins) ++shift;
    const int bin = enter_bin([&](float logit, int token) {
      const RankKey key = MakeRankKey(logit, token);
      return key < low || key > high ? -1 : static_cast<int>((high - key) >> shift);
    });
    count = static_cast<int>(memory.histogram.counts[bin]);
    high -= static_cast<RankKey>(bin) << shift;
    const RankKey width = (RankKey{1} << shift) - 1;
    if (high - low > width) low = high - width;
  }
  CollectKeys(memory, row, [&](float logit, RankKey key) {
    return coarse_bin(logit) == cut_bin && key >= low && key <= high;
  });
  const auto measure_of = [&](int i) -> uint64_t {
    if (i >= count) return 0;
    return kMeasure == Measure::kWeight ? row.Weight(LogitOf(memory.keys[i])) : 1;
  };
  const Reached reached =
      FindReaching(memory, measure_of(2 * threadIdx.x), measure_of(2 * threadIdx.x + 1), target);
  return memory.keys[reached.index];
}

}  // namespace fla::cuda
