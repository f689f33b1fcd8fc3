// Sample: one block a row, three passes over the row for a plain draw, one for an argmax.
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/device_clock.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/select.cuh"
#include "kernels/cuda/warp_sum.cuh"
#include "kernels/philox.h"

namespace fla::cuda {
namespace {

// What the model's own distribution says of a row.
struct RowStatistics {
  RankKey best;   // key of the largest logit
  float log_sum;  // ln of the sum of exp(logit - largest)
  bool finite;

  // Subtracts the largest logit first: large logits cost no digits.
  __device__ float LogProb(float logit) const { return logit - LogitOf(best) - log_sum; }
};

// The largest of some logits and the sum of exp(logit - largest).
struct ExpSum {
  float largest = -INFINITY;
  float sum = 0.0f;

  __device__ void RaiseTo(float larger) {
    if (sum > 0.0f) sum *= __expf(largest - larger);
    largest = larger;
  }
};

// Of all lanes of a warp together; the same bits in every lane.
__device__ ExpSum WarpSum(ExpSum mine) {
  mine.RaiseTo(WarpMax(mine.largest));
  mine.sum = cuda::WarpSum(mine.sum);
  return mine;
}

// The most probable token of the row, of which `largest` is the largest logit, and `mine` that of
// the calling thread, first met in the piece that begins at `first`.
__device__ RankKey FindBest(SelectMemory& memory, const float* logits, int vocab, float largest,
                            float mine, int first) {
  RankKey best = 0;
  if (mine == largest) {
    for (int i = 0; i < 4 * LogitPiece::kVectors && best == 0; ++i) {
      const int token = LogitPiece::TokenAt(first, i / 4) + i % 4;
      if (token < vocab && logits[token] == largest) best = MakeRankKey(largest, token);
    }
  }
  return BlockMax(memory, best);
}

__device__ RowStatistics FindStatistics(SelectMemory& memory, const float* logits, int vocab) {
  __shared__ ExpSum warp_sums[32];
  ExpSum total;
  int first = 0;        // of the piece with the largest logit so far
  float poison = 0.0f;  // becomes NaN at a logit that is not finite
  const auto raise_to = [&](float largest, int token) {
    if (!(largest > total.largest)) return;
    total.RaiseTo(largest);
    first = token;
  };
  const auto add = [&](float logit) {
    poison += 0.0f * logit;
    total.sum += __expf(logit - total.largest);
  };
  const auto add_piece = [&](const LogitPiece& piece) {
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < LogitPiece::kVectors; ++i) {
      if (i >= piece.num_vectors) break;
      const float4& four = piece.vectors[i];
      largest = fmaxf(largest, fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w)));
    }
    raise_to(largest, piece.token);
#pragma unroll
    for (int i = 0; i < LogitPiece::kVectors; ++i) {
      if (i >= piece.num_vectors) break;
      add(piece.vectors[i].x);
      add(piece.vectors[i].y);
      add(piece.vectors[i].z);
      add(piece.vectors[i].w);
    }
  };
  ForEachPiece(logits, vocab, add_piece, [&](float logit, int token) {
    raise_to(logit, token);
    add(logit);
  });
  const float mine = total.largest;
  total = WarpSum(total);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = total;
  const bool finite = __syncthreads_and(poison == 0.0f) != 0;
  total = WarpSum(warp_sums[threadIdx.x % 32]);
  const RankKey best = FindBest(memory, logits, vocab, total.largest, mine, first);
  return {best, logf(total.sum), finite};
}

// Writes the row's num_top_logprobs most probable tokens; -1 past the vocabulary's end.
__device__ void WriteTopLogprobs(SelectMemory& memory, const SampleArgs& args, int row_index,
                                 const LogitRow& row, int count, const RowStatistics& statistics) {
  count = min(count, kMaxTopLogprobs);
  const RankKey cut = FindCut<Measure::kCount>(memory, row, count);
  CollectKeys(memory, row, [&](float, RankKey key) { return key >= cut; });
  if (static_cast<int>(threadIdx.x) < count) {
    const RankKey key = memory.keys[threadIdx.x];
    const int64_t at = static_cast<int64_t>(row_index) * kMaxTopLogprobs + threadIdx.x;
    const bool exists = static_cast<int>(threadIdx.x) < row.vocab;
    args.top_tokens[at] = exists ? TokenOf(key) : -1;
    args.top_logprobs[at] = exists ? statistics.LogProb(LogitOf(key)) : -INFINITY;
  }
}

// Applies logit_bias and the penalties to `logits`, and keeps the changed tokens' own logits at
// their places of `original`.
__device__ void Penalize(const SampleArgs& args, const SamplingRow& options, float* logits,
                         float* original) {
  for (int i = options.biases_begin + threadIdx.x; i < options.biases_end; i += kSelectThreads) {
    const LogitBias& bias = args.biases[i];
    original[bias.token] = logits[bias.token];
    logits[bias.token] += bias.bias;
  }
  __syncthreads();
  for (int i = options.counts_begin + threadIdx.x; i < options.counts_end; i += kSelectThreads) {
    const TokenCount& count = args.counts[i];
    float logit = logits[count.token];
    bool biased = false;
    for (int b = options.biases_begin; b < options.biases_end; ++b) {
      biased = biased || args.biases[b].token == count.token;
    }
    if (!biased) original[count.token] = logit;
    if (count.prompt_count + count.output_count > 0) {
      logit =
          logit > 0.0f ? logit / options.repetition_penalty : logit * options.repetition_penalty;
    }
    if (count.output_count > 0) {
      logit -= options.frequency_penalty * static_cast<float>(count.output_count) +
               options.presence_penalty;
    }
    logits[count.token] = logit;
  }
  __syncthreads();
}

// The logit of `token` before Penalize.
__device__ float OriginalLogit(const SampleArgs& args, const SamplingRow& options, int token,
                               const float* logits, const float* original) {
  bool changed = false;
  for (int i = options.biases_begin + threadIdx.x; i < options.biases_end; i += kSelectThreads) {
    changed = changed || args.biases[i].token == token;
  }
  for (int i = options.counts_begin + threadIdx.x; i < options.counts_end; i += kSelectThreads) {
    changed = changed || args.counts[i].token == token;
  }
  return __syncthreads_or(changed) != 0 ? original[token] : logits[token];
}

__device__ uint64_t SumOf(const uint64_t (&weights)[4]) {
  return (weights[0] + weights[1]) + (weights[2] + weights[3]);
}

// Over the lanes of a warp, of sums of a few weights each: in two halves, for which there is an
// instruction.
__device__ uint64_t WarpSum(uint64_t sum) {
  constexpr int kLowBits = 26;  // and no more above them: 32 of either fit in 32 bits
  const unsigned low =
      __reduce_add_sync(0xffffffffu, static_cast<unsigned>(sum) & ((1u << kLowBits) - 1));
  const unsigned high = __reduce_add_sync(0xffffffffu, static_cast<unsigned>(sum >> kLowBits));
  return (static_cast<uint64_t>(high) << kLowBits) + low;
}

// Draws from the tokens whose key reaches `cut` and whose probability reaches min_p times the
// largest: the first, in order of ids, at which the running weight exceeds `uniform` times the
// total. A warp first sums segments of the row, a lane four neighbours of each 128 ids.
__device__ int Draw(SelectMemory& memory, const LogitRow& row, RankKey cut, float min_p,
                    float uniform) {
  constexpr int kLaneIds = 4, kStep = 32 * kLaneIds;
  const auto weight_of = [&](float logit, int token) -> uint64_t {
    if (cut != 0 && MakeRankKey(logit, token) < cut) return 0;
    const float odds = row.Odds(logit);
    return odds >= min_p ? LogitRow::WeightOf(odds) : 0;
  };
  const bool aligned = reinterpret_cast<uintptr_t>(row.logits) % 16 == 0;
  // The weights of four neighbours, 0 past the row's end.
  const auto load_weights = [&](int token, uint64_t(&weights)[kLaneIds]) {
    float four[kLaneIds] = {};
    if (aligned && token + kLaneIds <= row.vocab) {
      *reinterpret_cast<float4*>(four) = *reinterpret_cast<const float4*>(row.logits + token);
    } else {
      for (int i = 0; i < kLaneIds && token + i < row.vocab; ++i) four[i] = row.logits[token + i];
    }
#pragma unroll
    for (int i = 0; i < kLaneIds; ++i) {
      weights[i] = token + i < row.vocab ? weight_of(four[i], token + i) : 0;
    }
  };
  const int lane = threadIdx.x % 32;
  const int segment = (row.vocab + kBins * kStep - 1) / (kBins * kStep) * kStep;
  const int num_segments = (row.vocab + segment - 1) / segment;
  __syncthreads();
  for (int s = threadIdx.x; s < kBins; s += kSelectThreads) memory.keys[s] = 0;
  __syncthreads();
#pragma unroll 4
  for (int s = threadIdx.x / 32; s < num_segments; s += kSelectThreads / 32) {
    uint64_t sum = 0;
    for (int token = s * segment + kLaneIds * lane; token < (s + 1) * segment; token += kStep) {
      uint64_t weights[kLaneIds];
      load_weights(token, weights);
      sum += SumOf(weights);
    }
    sum = WarpSum(sum);
    if (lane == 0) memory.keys[s] = sum;
  }
  __syncthreads();
  const uint64_t even = memory.keys[2 * threadIdx.x], odd = memory.keys[2 * threadIdx.x + 1];
  const uint64_t total = BlockSum(memory, even + odd);
  const uint64_t target = static_cast<uint64_t>(static_cast<double>(uniform) * total) + 1;
  const Reached reached = FindReaching(memory, even, odd, target);

  if (threadIdx.x < 32) {
    uint64_t before = reached.before;
    const int end = (reached.index + 1) * segment;
    for (int base = reached.index * segment; base < end; base += kStep) {
      uint64_t weights[kLaneIds];
      load_weights(base + kLaneIds * lane, weights);
      uint64_t inclusive = SumOf(weights);
      for (int offset = 1; offset < 32; offset *= 2) {
        const uint64_t lower = __shfl_up_sync(0xffffffffu, inclusive, offset);
        if (lane >= offset) inclusive += lower;
      }
      const unsigned reaching = __ballot_sync(0xffffffffu, before + inclusive >= target);
      if (reaching != 0) {
        if (lane == __ffs(reaching) - 1) {
          uint64_t sum = before + inclusive - SumOf(weights);
          int index = base + kLaneIds * lane;
#pragma unroll
          for (int i = 0; i < kLaneIds - 1; ++i) {
            sum += weights[i];
            index += sum < target ? 1 : 0;
          }
          memory.index = index;
        }
        break;
      }
      before += __shfl_sync(0xffffffffu, inclusive, 31);
    }
  }
  __syncthreads();
  return memory.index;
}

// The token that the options choose from the penalized row.
__device__ int Choose(SelectMemory& memory, const SamplingRow& options, const LogitRow& row) {
  RankKey cut = 0;
  if (options.top_k > 0 && options.top_k < row.vocab) {
    cut = FindCut<Measure::kCount>(memory, row, options.top_k);
  }
  if (options.top_p < 1.0f) {
    uint64_t weight = 0;
    ForEachLogit(row.logits, row.vocab, [&](float logit, int token) {
      if (MakeRankKey(logit, token) >= cut) weight += row.Weight(logit);
    });
    const auto total = static_cast<double>(BlockSum(memory, weight));
    const double wanted = ceil(fmax(static_cast<double>(options.top_p), 0.0) * total);
    const RankKey top_p_cut =
        FindCut<Measure::kWeight>(memory, row, static_cast<uint64_t>(fmax(wanted, 1.0)));
    cut = cut > top_p_cut ? cut : top_p_cut;
  }
  const float uniform =
      OpenUniform(Philox4x32(options.seed, static_cast<uint64_t>(options.position)).words[0]);
  return Draw(memory, row, cut, options.min_p, uniform);
}

// By one thread, once a row, after all else.
__device__ void WriteResult(const SampleArgs& args, int row_index, bool finite, int token,
                            float logprob) {
  args.tokens[row_index] = token;
  if (args.host_tokens != nullptr) args.host_tokens[row_index] = token;
  if (args.logprobs != nullptr) args.logprobs[row_index] = logprob;
  if (args.nonfinite != nullptr) args.nonfinite[row_index] = finite ? 0 : 1;
  if (args.times != nullptr) {
    args.times[row_index] = {args.began != nullptr ? *args.began : 0, Now()};
  }
}

constexpr int kOptionWords = sizeof(SamplingRow) / sizeof(uint32_t);
static_assert(sizeof(SamplingRow) % sizeof(uint32_t) == 0 && kOptionWords <= kSelectThreads);

// A word that may be in host memory, microseconds away: on its way from here on.
__device__ __forceinline__ uint32_t BeginLoad(const uint32_t* source) {
  uint32_t word;
  asm volatile("ld.volatile.global.u32 %0, [%1];" : "=r"(word) : "l"(source));
  return word;
}

// grid (N), block (kSelectThreads); original [N, vocab]
__global__ void __launch_bounds__(kSelectThreads)
    SampleKernel(const __grid_constant__ SampleArgs args, float* originals) {
  __shared__ SelectMemory memory;
  __shared__ alignas(SamplingRow) uint32_t option_words[kOptionWords];
  const int row_index = blockIdx.x;
  BeginNextKernel();
  uint32_t option_word = 0;
  if (threadIdx.x < kOptionWords) {
    option_word = BeginLoad(reinterpret_cast<const uint32_t*>(args.rows + row_index) + threadIdx.x);
  }
  AwaitPreviousKernel();
  const int vocab = static_cast<int>(args.logits.cols);
  float* logits = static_cast<float*>(args.logits.data) + row_index * args.logits.stride;
  float* original = originals + static_cast<int64_t>(row_index) * vocab;

  const RowStatistics statistics = FindStatistics(memory, logits, vocab);
  if (!statistics.finite) {
    if (threadIdx.x == 0) WriteResult(args, row_index, /*finite=*/false, /*token=*/0, NAN);
    return;
  }
  if (threadIdx.x < kOptionWords) option_words[threadIdx.x] = option_word;
  __syncthreads();
  const SamplingRow& options = *reinterpret_cast<const SamplingRow*>(option_words);

  LogitRow row = {logits, vocab, LogitOf(statistics.best), 1.0f};
  if (options.num_top_logprobs > 0 && args.logprobs != nullptr) {
    WriteTopLogprobs(memory, args, row_index, row, options.num_top_logprobs, statistics);
  }
  int token = options.forced_token;
  float logit = 0.0f;
  if (token >= 0) {
    logit = logits[token];
  } else {
    RankKey best = statistics.best;
    const bool penalized =
        options.biases_begin < options.biases_end || options.counts_begin < options.counts_end;
    if (penalized) {
      __syncthreads();
      Penalize(args, options, logits, original);
      best = 0;
      ForEachLogit(logits, vocab, [&](float value, int id) {
        const RankKey key = MakeRankKey(value, id);
        best = key > best ? key : best;
      });
      best = BlockMax(memory, best);
    }
    if (options.temperature > 0.0f && isfinite(LogitOf(best))) {
      row.largest = LogitOf(best);
      row.inverse_temperature = 1.0f / options.temperature;
      token = Choose(memory, options, row);
    } else {
      token = TokenOf(best);
    }
    logit = penalized ? OriginalLogit(args, options, token, logits, original) : logits[token];
  }
  if (threadIdx.x == 0) {
    WriteResult(args, row_index, /*finite=*/true, token, statistics.LogProb(logit));
  }
}

}  // namespace

void Sample(Stream& stream, const SampleArgs& args) {
  if (args.logits.rows == 0) return;
  auto* originals = static_cast<float*>(
      stream.Scratch(SampleScratchBytes(stream.device(), args.logits.rows, args.logits.cols)));
  Check(LaunchChained(SampleKernel, static_cast<unsigned>(args.logits.rows), kSelectThreads, 0,
                      MakeCurrent(stream), stream.cuda()->can_chain, args, originals),
        "Sample");
}

}  // namespace fla::cuda
