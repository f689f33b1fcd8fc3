// The sequential half of prefill: carries the state over the chunks of a sequence.
//
// The state's columns are independent: a slice of 16 of them is carried over the whole sequence as
// S^T [16, K], in the registers of tensor-core accumulators of one warp or, to shorten the chain of
// dependent products where there are few slices, of kParts warps that own K / kParts rows each and
// add their partial products through shared memory. Where there are many, slices are 16 * kWidth
// columns wide: each operand that a warp brings from shared memory serves kWidth products, whose
// chains do not wait for each other. With C = 16 tokens a chunk and X^T for "columns are tokens",
// 16 columns do for each chunk
//
//   X^T = V^T - (S^T K_start^T)        U^T = X^T T^T                (kDelta; else U = V)
//   O^T = S^T Q_start^T + U^T P^T      S^T <- S^T decay + U^T K_end
//
// Accumulators become operands in registers; nothing but the outputs is written before the end. A
// scalar decay scales accumulators (query, key_start and key_end are then q and k themselves); a
// decay per channel has been multiplied in by ChunkPrepareKernel.
//
// A sequence's segments may take the place of sequences: scan_segment.cuh, which says what a block
// walks. Grid: there, of 16 * kWidth * slices columns; a block has slices * kParts computing warps,
// which share the chunk's operands, and one warp that brings these through a ring of stages
// (chunk_loader.cuh).
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_loader.cuh"
#include "kernels/cuda/ring_position.cuh"

namespace fla::cuda {

// The sums over the warps of a slice, by way of shared memory: in front of the stages.
template <int kParts, int kWidth>
constexpr int ExchangeBytes(int slices) {
  // Double buffer, 4 tiles of C layout.
  return kParts == 1 ? 0 : slices * kParts * kWidth * 2 * 4 * 32 * 16;
}

// Computing warps of a block, at most.
template <int kWidth>
inline constexpr int kMaxScanWarps = kMaxStageTiles / kWidth;
// Blocks that registers shall allow a multiprocessor: two of wide slices leave a thread 168, enough
// for all but X and O together.
template <int kWidth, bool kDelta, ScanPass kPass>
inline constexpr int kMinScanBlocks = kWidth == 2 && !(kDelta && kPass == ScanPass::kFinal) ? 2 : 1;

// What a warp below slices * kParts does. `shared`: barriers, exchange, stages; `position`: in
// these, of the first chunk and then of the one behind the last.
template <int kMaxK, int kParts, int kWidth, bool kDelta, bool kChannel, ScanPass kPass>
__device__ __forceinline__ void ScanChunks(const RecurrenceParams& p,
                                           const SegmentWorkspace& segments, const ScanWork& work,
                                           int slices, int stages, char* shared,
                                           RingPosition& position) {
  using Stage = ScanStage<kMaxK, kDelta, kChannel>;
  constexpr int kPartK = kMaxK / kParts, kTiles = kPartK / 8, kSteps = kTiles / 2;
  // Accumulators of one sum: shorter chains.
  constexpr int kSplits = kSteps >= 8 && kWidth == 1 ? 2 : 1;
  constexpr bool kOutputs = kPass == ScanPass::kFinal;
  const int num_chunks = (work.end - work.begin + kChunk - 1) / kChunk;
  const int thread = static_cast<int>(Kept(threadIdx.x));
  const int warp = thread / 32, lane = thread % 32, r = lane / 4, t = lane % 4;
  const int slice = warp / kParts, part = warp % kParts, K = p.key_dim;
  const int column = work.column + 16 * kWidth * slice;
  const int stage_bytes = Stage::Bytes(kWidth * slices);
  const int stages_offset = kScanBarrierBytes + ExchangeBytes<kParts, kWidth>(slices);
  const uint32_t full = Kept(SharedAddress(shared)), empty = full + 8 * kMaxScanStages;
  if (column >= work.num_columns) return;

  // Element (v = column + 16 w + r + 8 * (e / 2), k = part * kPartK + 8 * tile + 2 t + e % 2) of
  // S^T. Columns behind the last one may be anything: they meet no others.
  float state[kWidth][kTiles][4];
  const auto is_inside = [&](int w) { return w == 0 || column + 16 * w < work.num_columns; };
  const auto for_each_element = [&](auto&& visit) {
#pragma unroll
    for (int w = 0; w < kWidth; ++w) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int channel = part * kPartK + 8 * tile + 2 * t + e % 2;
          visit(state[w][tile][e], is_inside(w) && channel < K, channel, 16 * w + e / 2 * 8);
        }
      }
    }
  };
  const bool whole = column + 16 * kWidth <= work.num_columns && K == kMaxK;
  const ScanState<kPass, kDelta> home(p, segments, work, part * kPartK + 2 * t, column + r, whole);
  home.Load(for_each_element);

  // Byte offsets of this lane's row in ldmatrix: of operands whose rows are the product's columns
  // (also V, read as V^T) and of key_end, whose rows are contracted.
  constexpr int kColumns = ChunkRecord::kColumns;
  const uint32_t operand = lane / 8 % 2 * kColumns + (lane / 16 * 8 + lane % 8) * 16;
  const uint32_t operand_part = operand + part * (kPartK / 8) * kColumns;
  const uint32_t key_end =
      lane / 16 * kColumns + (lane / 8 % 2 * 8 + lane % 8) * 16 + part * (kPartK / 8) * kColumns;
  const bool decays = p.decay != Decay::kNone;
  // [buffer, part, w, tile of x and o, lane]
  float4* const exchange = reinterpret_cast<float4*>(shared + kScanBarrierBytes) +
                           slice * kParts * kWidth * 2 * 4 * 32 + lane;

  auto* out = static_cast<__nv_bfloat16*>(p.out) +
              static_cast<int64_t>(work.begin + r) * p.out_stride + work.head * p.value_dim +
              column + 2 * t;
  int tokens_left = work.end - work.begin - r;
  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    Wait(full + 8 * position.stage, position.parity);
    const int stage_offset = stages_offset + position.stage * stage_bytes;
    const uint32_t stage = full + stage_offset;
    const float* const decay =
        reinterpret_cast<const float*>(shared + stage_offset + Stage::kRecord.decay);

    // U^T as A operand: (tile 0, rows r), (tile 0, r + 8), (tile 1, r), ...
    uint32_t u[kWidth][4];
#pragma unroll
    for (int w = 0; w < kWidth; ++w) {
      LoadMatricesTransposed(u[w],
                             stage + Stage::kValue + operand + 2 * (kWidth * slice + w) * kColumns);
    }
    // Scalar decay at this lane's tokens 8 * tile + 2 t + e.
    float from_start[2][2], to_end[2][2];
    if constexpr (!kChannel) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const float2 start = *reinterpret_cast<const float2*>(decay + 8 * tile + 2 * t);
        const float2 end = *reinterpret_cast<const float2*>(decay + kChunk + 8 * tile + 2 * t);
        from_start[tile][0] = start.x, from_start[tile][1] = start.y;
        to_end[tile][0] = end.x, to_end[tile][1] = end.y;
      }
    }

    // S^T times a matrix [C, K], steps [begin, end), into tiles of tokens 0-7 and 8-15.
    using Sums = float[kWidth][kSplits][2][4];
    const auto multiply_state = [&](Sums& sums, uint32_t matrix, int begin, int end) {
#pragma unroll
      for (int step = begin; step < end; ++step) {
        uint32_t b[4];
        LoadMatrices(b, matrix + operand_part + 2 * kColumns * step);
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          const float(&s)[4] = state[w][2 * step];
          const float(&s_next)[4] = state[w][2 * step + 1];
          const uint32_t a[4] = {Pack(s[0], s[1]), Pack(s[2], s[3]), Pack(s_next[0], s_next[1]),
                                 Pack(s_next[2], s_next[3])};
          MultiplyAdd(sums[w][step % kSplits][0], a[0], a[1], a[2], a[3], b[0], b[1]);
          MultiplyAdd(sums[w][step % kSplits][1], a[0], a[1], a[2], a[3], b[2], b[3]);
        }
      }
    };
    const auto add_splits = [&](Sums& sums) {
      if constexpr (kSplits == 2) {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[0][0][tile][e] += sums[0][1][tile][e];
        }
      }
    };
    // Sums over the parts: first put all, then, behind a barrier, add those of the others.
    float4* const buffer = exchange + chunk % 2 * kParts * kWidth * 4 * 32;
    const auto put = [&](int w, int tile, const float(&x)[4]) {
      buffer[((part * kWidth + w) * 4 + tile) * 32] = make_float4(x[0], x[1], x[2], x[3]);
    };
    const auto add_others = [&](int w, int tile, float(&x)[4]) {
#pragma unroll
      for (int i = 1; i < kParts; ++i) {
        const float4 other = buffer[(((part + i) % kParts * kWidth + w) * 4 + tile) * 32];
        x[0] += other.x, x[1] += other.y, x[2] += other.z, x[3] += other.w;
      }
    };
    const auto wait_for_parts = [&] { SyncThreads<32 * kParts>(1 + slice); };

    // What the next chunk waits for is the chain X, U, S; the products of O fill its gaps. Two
    // chains fill each other's: they take X and O together, so that the state is rounded once.
    float o[kWidth][kSplits][2][4] = {};
    constexpr bool kTogether = kWidth > 1;
    const auto put_outputs = [&] {
      add_splits(o);
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
        if (part != 0) put(w, 2, o[w][0][0]);
        if (part != 1) put(w, 3, o[w][0][1]);
      }
    };
    uint32_t u_to_end[kWidth][4];
    if constexpr (kDelta) {
      uint32_t transform[4];
      LoadMatrices(transform, stage + Stage::kRecord.transform + operand);
      float x[kWidth][kSplits][2][4] = {};
      if constexpr (kOutputs && kTogether) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          multiply_state(x, stage + Stage::kKeyStart, step, step + 1);
          multiply_state(o, stage + Stage::kQuery, step, step + 1);
        }
      } else {
        multiply_state(x, stage + Stage::kKeyStart, 0, kSteps);
        if constexpr (kOutputs) {
          multiply_state(o, stage + Stage::kQuery, 0, kParts == 1 ? kSteps / 2 : kSteps);
        }
      }
      add_splits(x);
      if constexpr (kParts > 1) {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          put(w, 0, x[w][0][0]);
          put(w, 1, x[w][0][1]);
        }
        if constexpr (kOutputs) put_outputs();
        wait_for_parts();
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          add_others(w, 0, x[w][0][0]);
          add_others(w, 1, x[w][0][1]);
        }
      }
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int tile = i / 2, e = i % 2 * 2;
          float product[2] = {x[w][0][tile][e], x[w][0][tile][e + 1]};
          if constexpr (!kChannel) {
            product[0] *= from_start[tile][0];
            product[1] *= from_start[tile][1];
          }
          u[w][i] = Pack(Low(u[w][i]) - product[0], High(u[w][i]) - product[1]);
        }
      }
      float solved[kWidth][2][4] = {};
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
        const uint32_t(&a)[4] = u[w];
        MultiplyAdd(solved[w][0], a[0], a[1], a[2], a[3], transform[0], transform[1]);
        MultiplyAdd(solved[w][1], a[0], a[1], a[2], a[3], transform[2], transform[3]);
      }
      if constexpr (kOutputs && !kTogether && kParts == 1) {
        multiply_state(o, stage + Stage::kQuery, kSteps / 2, kSteps);
        add_splits(o);
      }
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int tile = i / 2, e = i % 2 * 2;
          const float first = solved[w][tile][e], second = solved[w][tile][e + 1];
          u[w][i] = Pack(first, second);
          if constexpr (!kChannel) {
            u_to_end[w][i] = Pack(first * to_end[tile][0], second * to_end[tile][1]);
          }
        }
      }
    } else {
      if constexpr (kOutputs) {
        multiply_state(o, stage + Stage::kQuery, 0, kSteps);
        if constexpr (kParts > 1) {
          put_outputs();
        } else {
          add_splits(o);
        }
      }
      if constexpr (!kChannel) {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t x = u[w][i];
            const float(&end)[2] = to_end[i / 2];
            u_to_end[w][i] = decays ? Pack(Low(x) * end[0], High(x) * end[1]) : x;
          }
        }
      }
    }
    if constexpr (kChannel) {
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
#pragma unroll
        for (int i = 0; i < 4; ++i) u_to_end[w][i] = u[w][i];
      }
    }

    const float whole = kChannel ? 1.0f : decay[kChunk - 1];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t b[4];
      LoadMatricesTransposed(b, stage + Stage::kKeyEnd + key_end + 2 * kColumns * step);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 factor = make_float2(whole, whole);
        if constexpr (kChannel) {
          factor = *reinterpret_cast<const float2*>(decay + part * kPartK + 16 * step + 8 * half +
                                                    2 * t);
        }
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          float(&s)[4] = state[w][2 * step + half];
          const uint32_t(&a)[4] = u_to_end[w];
          s[0] *= factor.x, s[1] *= factor.y, s[2] *= factor.x, s[3] *= factor.y;
          MultiplyAdd(s, a[0], a[1], a[2], a[3], b[2 * half], b[2 * half + 1]);
        }
      }
    }

    if constexpr (!kOutputs) {
      Arrive(empty + 8 * position.stage);
    } else {
      uint32_t attention[4];
      LoadMatrices(attention, stage + Stage::kRecord.attention + operand);
      Arrive(empty + 8 * position.stage);
      // One tile of O^T, tokens 8 * tile .. + 7, to memory.
      const auto finish = [&](int w, int tile) {
        float(&sum)[4] = o[w][0][tile];
        const uint32_t(&a)[4] = u[w];
        if constexpr (!kChannel) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[e] *= p.scale * from_start[tile][e % 2];
        }
        MultiplyAdd(sum, a[0], a[1], a[2], a[3], attention[2 * tile], attention[2 * tile + 1]);
        const uint32_t low = Transposed(Pack(sum[0], sum[1]));
        const uint32_t high = Transposed(Pack(sum[2], sum[3]));
        if (8 * tile >= tokens_left || !is_inside(w)) return;
        auto* const target = out + 8 * tile * p.out_stride + 16 * w;
        if (p.paired_out) {
          *reinterpret_cast<uint32_t*>(target) = low;
          *reinterpret_cast<uint32_t*>(target + 8) = high;
        } else {
          target[0] = __float2bfloat16(Low(low));
          target[1] = __float2bfloat16(High(low));
          target[8] = __float2bfloat16(Low(high));
          target[9] = __float2bfloat16(High(high));
        }
      };
      if constexpr (kParts > 1 && !kDelta) wait_for_parts();
#pragma unroll
      for (int w = 0; w < kWidth; ++w) {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          if constexpr (kParts > 1) {
            if (part != tile) continue;
            add_others(w, 2 + tile, o[w][0][tile]);
          }
          finish(w, tile);
        }
      }
      out += kChunk * p.out_stride;
      tokens_left -= kChunk;
    }
    position.Advance(stages);
  }

  home.Store(for_each_element);
}

// Barriers of the ring, by one thread.
template <int kParts, int kWidth>
__device__ __forceinline__ void InitScanBarriers(const ScanWork& work, int slices, int stages,
                                                 uint32_t full) {
  const int columns = work.num_columns - work.column;
  const int readers = min(slices, (columns / 16 + kWidth - 1) / kWidth) * kParts;
  for (int i = 0; i < stages; ++i) {
    InitBarrier(full + 8 * i, 32);
    InitBarrier(full + 8 * (kMaxScanStages + i), 32 * readers);
  }
}

template <int kMaxK, int kParts, int kWidth, bool kDelta, bool kChannel, ScanPass kPass>
__global__ void __launch_bounds__(32 * (kMaxScanWarps<kWidth> + 1),
                                  kMinScanBlocks<kWidth, kDelta, kPass>)
    ChunkScanKernel(const RecurrenceParams p, const TokenWindow window,
                    const ChunkWorkspace workspace, const int slices, const int stages) {
  using Stage = ScanStage<kMaxK, kDelta, kChannel>;
  extern __shared__ __align__(128) char shared[];
  BeginNextKernel();  // a first kernel: ChunkWorkspace::beside_scan
  const ScanWork work = FindScanWork<kPass, kDelta, kChunk>(p, window, workspace.segments,
                                                            16 * kWidth * slices, blockIdx);
  if (work.begin >= work.end) return AwaitPreviousKernel();
  const int stage_bytes = Stage::Bytes(kWidth * slices);
  const int stages_offset = kScanBarrierBytes + ExchangeBytes<kParts, kWidth>(slices);
  const uint32_t full = SharedAddress(shared);

  // Channels behind K of q and k stay zero in every stage.
  if (!kChannel && p.key_dim < kMaxK) {
    for (int i = 4 * threadIdx.x; i < stages * stage_bytes; i += 4 * blockDim.x) {
      *reinterpret_cast<uint32_t*>(shared + stages_offset + i) = 0;
    }
  }
  if (threadIdx.x == 0) InitScanBarriers<kParts, kWidth>(work, slices, stages, full);
  __syncthreads();
  RingPosition position;
  if (threadIdx.x / 32 < slices * kParts) {
    return ScanChunks<kMaxK, kParts, kWidth, kDelta, kChannel, kPass>(
        p, workspace.segments, work, slices, stages, shared, position);
  }
  ChunkLoader<kMaxK, kDelta, kChannel, kPass> loader(p, work, kWidth * slices);
  const int64_t number = static_cast<int64_t>(work.chunk_slot) * p.heads + work.head;
  const char* record = workspace.records + number * Stage::kRecord.bytes;
  const uint32_t empty = full + 8 * kMaxScanStages;
  AwaitPreviousKernel();  // for its records
  while (loader.HasNext()) {
    Wait(empty + 8 * position.stage, position.parity ^ 1);
    loader.LoadNext(record, full + stages_offset + position.stage * stage_bytes,
                    full + 8 * position.stage);
    record += static_cast<int64_t>(p.heads) * Stage::kRecord.bytes;
    position.Advance(stages);
  }
}

template <int kMaxK, int kParts, int kWidth, bool kDelta, bool kChannel, ScanPass kPass>
void LaunchChunkScanKernel(const RecurrenceParams& p, const ScanLaunch& launch) {
  using Stage = ScanStage<kMaxK, kDelta, kChannel>;
  const int slices = launch.plan.slices_per_block;
  // Registers allow one large block an SM, or two small ones.
  const bool one_block = kMaxK > 128 && kWidth == 1;
  const int shared_bytes = std::min(one_block ? 160 << 10 : 98 << 10, MaxSharedBytes());
  const int fixed_bytes = kScanBarrierBytes + ExchangeBytes<kParts, kWidth>(slices);
  const int stage_bytes = Stage::Bytes(kWidth * slices);
  const int stages = std::clamp((shared_bytes - fixed_bytes) / stage_bytes, 2, kMaxScanStages);
  const int bytes = fixed_bytes + stages * stage_bytes;
  const auto kernel = ChunkScanKernel<kMaxK, kParts, kWidth, kDelta, kChannel, kPass>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  const dim3 grid(ScanColumnBlocks(p, kPass, kDelta, 16 * kWidth * slices), p.heads,
                  ScanPieces(p, launch.window, launch.workspace.segments));
  Check(LaunchChained(kernel, grid, 32 * (slices * kParts + 1), bytes, launch.stream,
                      launch.plan.beside_first, p, launch.window, launch.workspace, slices, stages),
        "ChunkScanKernel");
}

template <int kMaxK, int kParts, int kWidth, bool kDelta, ScanPass kPass>
void LaunchChunkScanCell(const RecurrenceParams& p, const ScanLaunch& launch) {
  if (p.decay == Decay::kPerChannel) {
    LaunchChunkScanKernel<kMaxK, kParts, kWidth, kDelta, true, kPass>(p, launch);
  } else {
    LaunchChunkScanKernel<kMaxK, kParts, kWidth, kDelta, false, kPass>(p, launch);
  }
}

// Narrow slices, their keys shared by as many warps as the plan says; not of the local pass.
template <bool kDelta>
void LaunchNarrowSlices(const RecurrenceParams& p, const ScanLaunch& launch) {
  constexpr ScanPass kPass = ScanPass::kFinal;
  const bool split = launch.plan.key_parts * 64 == MaxKeyDim(p.key_dim);
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return LaunchChunkScanCell<64, 1, 1, kDelta, kPass>(p, launch);
    case 128:
      return split ? LaunchChunkScanCell<128, 2, 1, kDelta, kPass>(p, launch)
                   : LaunchChunkScanCell<128, 1, 1, kDelta, kPass>(p, launch);
    default:
      return split ? LaunchChunkScanCell<256, 4, 1, kDelta, kPass>(p, launch)
                   : LaunchChunkScanCell<256, 2, 1, kDelta, kPass>(p, launch);
  }
}

template <bool kDelta, ScanPass kPass>
void LaunchChunkScan(const RecurrenceParams& p, const ScanLaunch& launch) {
  if constexpr (kPass == ScanPass::kFinal) {
    if (launch.plan.slice_width == 1) return LaunchNarrowSlices<kDelta>(p, launch);
  }
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return LaunchChunkScanCell<64, 1, 2, kDelta, kPass>(p, launch);
    case 128:
      return LaunchChunkScanCell<128, 1, 2, kDelta, kPass>(p, launch);
    default:
      return LaunchChunkScanCell<256, 2, 2, kDelta, kPass>(p, launch);
  }
}

}  // namespace fla::cuda
