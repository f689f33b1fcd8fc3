// The sequential half of prefill: carries the state over the chunks of a sequence.
//
// The state's columns are independent: a slice of 16 of them is carried over the whole sequence as
// S^T [16, K], in the registers of tensor-core accumulators of one warp or, to shorten the chain of
// dependent products where there are few slices, of kParts warps that own K / kParts rows each and
// add their partial products through shared memory. With C = 16 tokens a chunk and X^T for "columns
// are tokens", a slice does for each chunk
//
//   X^T = V^T - (S^T K_start^T)        U^T = X^T T^T                (kDelta; else U = V)
//   O^T = S^T Q_start^T + U^T P^T      S^T <- S^T decay + U^T K_end
//
// Accumulators become operands in registers; nothing but the outputs is written before the end. A
// scalar decay scales accumulators (query, key_start and key_end are then q and k themselves); a
// decay per channel has been multiplied in by ChunkPrepareKernel.
//
// A sequence's segments may take the place of sequences: scan_segment.cuh, which says what a block
// walks. Grid: there, of 16 * slices columns; a block has slices * kParts computing warps, which
// share the chunk's operands, and one warp that brings these through a ring of stages
// (chunk_loader.cuh).
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/chunk_loader.cuh"

namespace fla::cuda {

// The sums over the warps of a slice, by way of shared memory: in front of the stages.
template <int kParts>
constexpr int ExchangeBytes(int slices) {
  return kParts == 1 ? 0 : slices * kParts * 2 * 4 * 32 * 16;  // double buffer, 4 tiles of C layout
}

template <int kMaxK, int kParts, bool kDelta, bool kChannel, ScanPass kPass>
__global__ void __launch_bounds__(288)
    ChunkScanKernel(const RecurrenceParams p, const TokenWindow window,
                    const ChunkWorkspace workspace, const int slices, const int stages) {
  using Stage = ScanStage<kMaxK, kDelta, kChannel>;
  constexpr int kPartK = kMaxK / kParts, kTiles = kPartK / 8, kSteps = kTiles / 2;
  constexpr int kSplits = kSteps >= 8 ? 2 : 1;  // accumulators of one sum: shorter chains
  constexpr bool kOutputs = kPass == ScanPass::kFinal;
  extern __shared__ __align__(128) char shared[];
  const ScanWork work =
      FindScanWork<kPass, kDelta, kChunk>(p, window, workspace.segments, 16 * slices);
  if (work.begin >= work.end) return;
  const int num_chunks = (work.end - work.begin + kChunk - 1) / kChunk;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int slice = warp / kParts, part = warp % kParts, K = p.key_dim;
  const int column = work.column + 16 * slice;
  const int stage_bytes = Stage::Bytes(slices);
  const int stages_offset = kScanBarrierBytes + ExchangeBytes<kParts>(slices);
  const uint32_t full = SharedAddress(shared), empty = full + 8 * kMaxScanStages;

  // Channels behind K of q and k stay zero in every stage.
  if (!kChannel && K < kMaxK) {
    for (int i = 4 * threadIdx.x; i < stages * stage_bytes; i += 4 * blockDim.x) {
      *reinterpret_cast<uint32_t*>(shared + stages_offset + i) = 0;
    }
  }
  if (threadIdx.x == 0) {
    const int readers = min(slices, (work.num_columns - work.column) / 16) * kParts;
    for (int i = 0; i < stages; ++i) {
      InitBarrier(full + 8 * i, 32);
      InitBarrier(empty + 8 * i, 32 * readers);
    }
  }
  __syncthreads();
  if (slice == slices) {
    ChunkLoader<kMaxK, kDelta, kChannel, kPass> loader(p, workspace, work, num_chunks, slices);
    loader.Run(stages, full, empty, full + stages_offset);
    return;
  }
  if (column >= work.num_columns) return;

  // Element (v = column + r + 8 * (e / 2), k = part * kPartK + 8 * tile + 2 t + e % 2) of S^T.
  float state[kTiles][4];
  const auto for_each_element = [&](auto&& visit) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int channel = part * kPartK + 8 * tile + 2 * t + e % 2;
        visit(state[tile][e], channel < K, channel, e / 2 * 8);
      }
    }
  };
  const ScanState<kPass, kDelta> home(p, workspace.segments, work, column + r);
  home.Load(for_each_element);

  // Byte offsets of this lane's row in ldmatrix: of operands whose rows are the product's columns
  // (also V, read as V^T) and of key_end, whose rows are contracted.
  constexpr int kColumns = ChunkRecord::kColumns;
  const uint32_t operand = lane / 8 % 2 * kColumns + (lane / 16 * 8 + lane % 8) * 16;
  const uint32_t operand_part = operand + part * (kPartK / 8) * kColumns;
  const uint32_t key_end =
      lane / 16 * kColumns + (lane / 8 % 2 * 8 + lane % 8) * 16 + part * (kPartK / 8) * kColumns;
  const bool decays = p.decay != Decay::kNone;
  // [buffer, part, tile of x and o, lane]
  float4* const exchange =
      reinterpret_cast<float4*>(shared + kScanBarrierBytes) + slice * kParts * 2 * 4 * 32 + lane;

  auto* out = static_cast<__nv_bfloat16*>(p.out) +
              static_cast<int64_t>(work.begin + r) * p.out_stride + work.head * p.value_dim +
              column + 2 * t;
  int tokens_left = work.end - work.begin - r;
  RingPosition position;
  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    Wait(full + 8 * position.stage, position.parity);
    const int stage_offset = stages_offset + position.stage * stage_bytes;
    const uint32_t stage = full + stage_offset;
    const float* const decay =
        reinterpret_cast<const float*>(shared + stage_offset + Stage::kRecord.decay);

    uint32_t u[4];  // U^T as A operand: (tile 0, rows r), (tile 0, r + 8), (tile 1, r), ...
    LoadMatricesTransposed(u, stage + Stage::kValue + operand + 2 * slice * kColumns);
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
    const auto multiply_state = [&](float(&sums)[kSplits][2][4], uint32_t matrix, int begin,
                                    int end) {
#pragma unroll
      for (int step = begin; step < end; ++step) {
        const float(&s)[4] = state[2 * step];
        const float(&s_next)[4] = state[2 * step + 1];
        const uint32_t a[4] = {Pack(s[0], s[1]), Pack(s[2], s[3]), Pack(s_next[0], s_next[1]),
                               Pack(s_next[2], s_next[3])};
        uint32_t b[4];
        LoadMatrices(b, matrix + operand_part + 2 * kColumns * step);
        MultiplyAdd(sums[step % kSplits][0], a[0], a[1], a[2], a[3], b[0], b[1]);
        MultiplyAdd(sums[step % kSplits][1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    };
    const auto add_splits = [&](float(&sums)[kSplits][2][4]) {
      if constexpr (kSplits == 2) {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[0][tile][e] += sums[1][tile][e];
        }
      }
    };
    // Sums over the parts: first put all, then, behind a barrier, add those of the others.
    float4* const buffer = exchange + chunk % 2 * kParts * 4 * 32;
    const auto put = [&](int tile, const float(&x)[4]) {
      buffer[(part * 4 + tile) * 32] = make_float4(x[0], x[1], x[2], x[3]);
    };
    const auto add_others = [&](int tile, float(&x)[4]) {
#pragma unroll
      for (int i = 1; i < kParts; ++i) {
        const float4 other = buffer[((part + i) % kParts * 4 + tile) * 32];
        x[0] += other.x, x[1] += other.y, x[2] += other.z, x[3] += other.w;
      }
    };
    const auto wait_for_parts = [&] { SyncThreads<32 * kParts>(1 + slice); };

    // What the next chunk waits for is the chain X, U, S; the products of O fill its gaps.
    float o[kSplits][2][4] = {};
    const auto put_outputs = [&] {
      add_splits(o);
      if (part != 0) put(2, o[0][0]);
      if (part != 1) put(3, o[0][1]);
    };
    uint32_t u_to_end[4];
    if constexpr (kDelta) {
      uint32_t transform[4];
      LoadMatrices(transform, stage + Stage::kRecord.transform + operand);
      float x[kSplits][2][4] = {};
      multiply_state(x, stage + Stage::kKeyStart, 0, kSteps);
      if constexpr (kOutputs) {
        multiply_state(o, stage + Stage::kQuery, 0, kParts == 1 ? kSteps / 2 : kSteps);
      }
      add_splits(x);
      if constexpr (kParts > 1) {
        put(0, x[0][0]);
        put(1, x[0][1]);
        if constexpr (kOutputs) put_outputs();
        wait_for_parts();
        add_others(0, x[0][0]);
        add_others(1, x[0][1]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int tile = i / 2, e = i % 2 * 2;
        float product[2] = {x[0][tile][e], x[0][tile][e + 1]};
        if constexpr (!kChannel) {
          product[0] *= from_start[tile][0];
          product[1] *= from_start[tile][1];
        }
        u[i] = Pack(Low(u[i]) - product[0], High(u[i]) - product[1]);
      }
      float solved[2][4] = {};
      MultiplyAdd(solved[0], u[0], u[1], u[2], u[3], transform[0], transform[1]);
      MultiplyAdd(solved[1], u[0], u[1], u[2], u[3], transform[2], transform[3]);
      if constexpr (kOutputs && kParts == 1) {
        multiply_state(o, stage + Stage::kQuery, kSteps / 2, kSteps);
        add_splits(o);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int tile = i / 2, e = i % 2 * 2;
        u[i] = Pack(solved[tile][e], solved[tile][e + 1]);
        if constexpr (!kChannel) {
          u_to_end[i] =
              Pack(solved[tile][e] * to_end[tile][0], solved[tile][e + 1] * to_end[tile][1]);
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
        for (int i = 0; i < 4; ++i) {
          u_to_end[i] =
              decays ? Pack(Low(u[i]) * to_end[i / 2][0], High(u[i]) * to_end[i / 2][1]) : u[i];
        }
      }
    }
    if constexpr (kChannel) {
#pragma unroll
      for (int i = 0; i < 4; ++i) u_to_end[i] = u[i];
    }

    const float whole = kChannel ? 1.0f : decay[kChunk - 1];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t b[4];
      LoadMatricesTransposed(b, stage + Stage::kKeyEnd + key_end + 2 * kColumns * step);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float(&s)[4] = state[2 * step + half];
        float2 factor = make_float2(whole, whole);
        if constexpr (kChannel) {
          factor = *reinterpret_cast<const float2*>(decay + part * kPartK + 16 * step + 8 * half +
                                                    2 * t);
        }
        s[0] *= factor.x, s[1] *= factor.y, s[2] *= factor.x, s[3] *= factor.y;
        MultiplyAdd(s, u_to_end[0], u_to_end[1], u_to_end[2], u_to_end[3], b[2 * half],
                    b[2 * half + 1]);
      }
    }

    if constexpr (!kOutputs) {
      Arrive(empty + 8 * position.stage);
    } else {
      uint32_t attention[4];
      LoadMatrices(attention, stage + Stage::kRecord.attention + operand);
      Arrive(empty + 8 * position.stage);
      // One tile of O^T, tokens 8 * tile .. + 7, to memory.
      const auto finish = [&](int tile, float(&sum)[4], const float(&start)[2], uint32_t b0,
                              uint32_t b1) {
        if constexpr (!kChannel) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[e] *= p.scale * start[e % 2];
        }
        MultiplyAdd(sum, u[0], u[1], u[2], u[3], b0, b1);
        const uint32_t low = Transposed(Pack(sum[0], sum[1]));
        const uint32_t high = Transposed(Pack(sum[2], sum[3]));
        if (8 * tile >= tokens_left) return;
        auto* const target = out + 8 * tile * p.out_stride;
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
      if constexpr (kParts == 1) {
        finish(0, o[0][0], from_start[0], attention[0], attention[1]);
        finish(1, o[0][1], from_start[1], attention[2], attention[3]);
      } else {
        if constexpr (!kDelta) wait_for_parts();
        if (part == 0) {
          add_others(2, o[0][0]);
          finish(0, o[0][0], from_start[0], attention[0], attention[1]);
        } else if (part == 1) {
          add_others(3, o[0][1]);
          finish(1, o[0][1], from_start[1], attention[2], attention[3]);
        }
      }
      out += kChunk * p.out_stride;
      tokens_left -= kChunk;
    }
    position.Advance(stages);
  }

  home.Store(for_each_element);
}

template <int kMaxK, int kParts, bool kDelta, bool kChannel, ScanPass kPass>
void LaunchChunkScanKernel(const RecurrenceParams& p, const ScanLaunch& launch) {
  using Stage = ScanStage<kMaxK, kDelta, kChannel>;
  const int slices = launch.plan.slices_per_block;
  // Registers allow one large block an SM, or two small ones.
  const int shared_bytes = std::min(kMaxK > 128 ? 160 << 10 : 98 << 10, MaxSharedBytes());
  const int fixed_bytes = kScanBarrierBytes + ExchangeBytes<kParts>(slices);
  const int stages =
      std::clamp((shared_bytes - fixed_bytes) / Stage::Bytes(slices), 2, kMaxScanStages);
  const int bytes = fixed_bytes + stages * Stage::Bytes(slices);
  const auto kernel = ChunkScanKernel<kMaxK, kParts, kDelta, kChannel, kPass>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(ScanColumnBlocks(p, kPass, kDelta, 16 * slices), p.heads,
                        ScanPieces(p, launch.window, launch.workspace.segments));
  config.blockDim = dim3(32 * (slices * kParts + 1));
  config.dynamicSmemBytes = bytes;
  config.stream = launch.stream;
  cudaLaunchAttribute follow = {};
  follow.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  follow.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &follow;
  config.numAttrs = launch.workspace.ready ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, kernel, p, launch.window, launch.workspace, slices, stages),
        "ChunkScanKernel");
}

template <int kMaxK, int kParts, bool kDelta, ScanPass kPass>
void LaunchChunkScanParts(const RecurrenceParams& p, const ScanLaunch& launch) {
  if (p.decay == Decay::kPerChannel) {
    LaunchChunkScanKernel<kMaxK, kParts, kDelta, true, kPass>(p, launch);
  } else {
    LaunchChunkScanKernel<kMaxK, kParts, kDelta, false, kPass>(p, launch);
  }
}

template <bool kDelta, ScanPass kPass>
void LaunchChunkScan(const RecurrenceParams& p, const ScanLaunch& launch) {
  const bool split = launch.plan.key_parts * 64 == MaxKeyDim(p.key_dim);
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return LaunchChunkScanParts<64, 1, kDelta, kPass>(p, launch);
    case 128:
      return split ? LaunchChunkScanParts<128, 2, kDelta, kPass>(p, launch)
                   : LaunchChunkScanParts<128, 1, kDelta, kPass>(p, launch);
    default:
      return split ? LaunchChunkScanParts<256, 4, kDelta, kPass>(p, launch)
                   : LaunchChunkScanParts<256, 2, kDelta, kPass>(p, launch);
  }
}

}  // namespace fla::cuda
