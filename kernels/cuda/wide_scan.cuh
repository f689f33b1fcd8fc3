// The sequential half of wide prefill: carries the state over the chunks of a sequence, on Hopper.
//
// As chunk_scan.cuh, with chunks of C = 64 tokens, slices of 64 of the state's columns, and wgmma.
// A warpgroup has one slice, S^T [64, K], in registers, as sums and, rounded, as operand. With X^T
// for "columns are tokens" a chunk is
//
//   X^T = V^T - (S^T K_start^T)        U^T = X^T T^T                (kDelta; else U = V)
//   O^T = S^T Q_start^T + U^T P^T      S^T <- S^T decay + U^T K_end
//
// where start and end are decays, which weight X, O and U instead of keys and queries. Only K, Q,
// T, P and V pass through shared memory, and O on its way out, through a panel of its own. The
// products are issued so that the chain from state to state, X, U, S, never waits for those of O,
// and what else a chunk takes is done while products are under way: a chunk's outputs leave under
// the next one's first products.
//
// A sequence's segments may take the place of sequences: scan_segment.cuh, which says what a block
// walks. Grid: there, of 64 * kSlices columns; a block has kSlices computing warpgroups, which
// share the chunk's operands, and one or two that bring these through a ring of stages
// (wide_loader.cuh).
#pragma once

#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/wide_loader.cuh"

namespace fla::cuda {

template <int kPanels, int kSlices, bool kDelta, ScanPass kPass>
constexpr int WideThreads() {
  return kWarpgroup * (kSlices + WideLoaders<WideStage<kPanels, kSlices, kDelta>, kPass>(kSlices));
}

// A lane's elements of O^T or U^T, [16 rows of its warp, 64 tokens], with the tokens in one part or
// in two.
template <int kParts>
using TokenSums = float[kParts][8 / kParts][4];
// Where products with a triangle are summed: those of all columns in the registers of `whole`,
// which they continue or follow.
__device__ __forceinline__ auto& SumsOf(TokenSums<1>& whole, TokenSums<1>&) { return whole; }
__device__ __forceinline__ auto& SumsOf(TokenSums<1>&, TokenSums<2>& parts) { return parts; }

template <int kPanels, int kSlices, bool kDelta, ScanPass kPass>
__global__ void __launch_bounds__(WideThreads<kPanels, kSlices, kDelta, kPass>(), 1)
    WideScanKernel(const RecurrenceParams p, const __grid_constant__ WideMaps maps,
                   const TokenWindow window, const ChunkWorkspace workspace, const int stages) {
  using Stage = WideStage<kPanels, kSlices, kDelta>;
  constexpr int kSteps = 4 * kPanels;         // of 16 channels
  constexpr bool kSharedState = kPanels > 2;  // as operand: registers have room for the sums only
  constexpr int kStages = WideHeaderBytes<Stage>();  // offset of the stages
  // Each warpgroup has the same share of the register file until the computing ones take some.
  constexpr int kLoaders = WideLoaders<Stage, kPass>(kSlices);
  constexpr bool kShareRegisters = kSlices + kLoaders > 2;
  constexpr int kLoaderRegisters = kLoaders == 2 ? 128 : Stage::kMakesAttention ? 96 : 40;
  constexpr bool kOutputs = kPass == ScanPass::kFinal;
  // Sums of products with a triangle, all columns together or (WideStage) in two parts. (A part not
  // of the registers that a product of 64 columns has: ptxas would wait after every single one.)
  constexpr int kParts = Stage::kZeroBytes > 0 ? 1 : 2, kPartTiles = 8 / kParts;
  using TriangleSums = TokenSums<kParts>;
  extern __shared__ __align__(1024) char shared[];
  BeginNextKernel();  // a first kernel: ChunkWorkspace::beside_scan
  const ScanWork work = FindScanWork<kPass, kDelta, kWideChunk>(p, window, workspace.segments,
                                                                kWideSlice * kSlices, blockIdx);
  if (work.begin >= work.end) return AwaitPreviousKernel();
  const int slice = threadIdx.x / kWarpgroup;
  const uint32_t full = SharedAddress(shared), empty = full + kBarriersOfAKind;
  if constexpr (Stage::kZeroBytes > 0) {
    constexpr int kPieces = Stage::kZeroBytes / 16;
    for (int i = threadIdx.x; i < stages * Stage::kTriangles * kPieces; i += blockDim.x) {
      const int triangle = i / kPieces;
      char* const zeros = shared + kStages + triangle / Stage::kTriangles * Stage::kBytes +
                          triangle % Stage::kTriangles * Stage::kTriangleRoom;
      reinterpret_cast<uint4*>(zeros)[i % kPieces] = make_uint4(0, 0, 0, 0);
    }
    PublishToTensorCores();
  }
  if (threadIdx.x == 0) {
    const int readers =
        min(kSlices, (work.num_columns - work.column + kWideSlice - 1) / kWideSlice);
    for (int i = 0; i < stages; ++i) {
      InitBarrier(full + 8 * i, Stage::kMakesAttention ? kWarpgroup : 1);
      InitBarrier(empty + 8 * i, readers * kWarpgroup);
      if (Stage::kMakesAttention) InitBarrier(empty + kBarriersOfAKind + 8 * i, 1);
    }
    PublishBarriers();
  }
  __syncthreads();

  if (slice >= kSlices) {
    if constexpr (kShareRegisters) ShrinkRegisters<kLoaderRegisters>();
    WideLoader<kPanels, kSlices, kDelta, kPass> loader(p, maps, workspace, work);
    loader.Run(stages, shared);
  } else {
    if constexpr (kShareRegisters) {
      GrowRegisters<(504 - kLoaders * kLoaderRegisters) / kSlices / 8 * 8>();
    }
    if (work.column + slice * kWideSlice >= work.num_columns) return;
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
    const int column = work.column + slice * kWideSlice + 16 * warp;  // of this warp's 16
    const bool inside = column < work.num_columns;

    // Element (v = column + r + 8 * (e / 2), k = 64 * panel + 8 * tile + 2 t + e % 2) of S^T.
    float state[kPanels][8][4];
    const auto for_each_element = [&](auto&& visit) {
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll
        for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int channel = 64 * panel + 8 * tile + 2 * t + e % 2;
            visit(state[panel][tile][e], inside && channel < p.key_dim, channel, e / 2 * 8);
          }
        }
      }
    };
    const bool whole = column + 16 <= work.num_columns && p.key_dim == 64 * kPanels;
    const ScanState<kPass, kDelta> home(p, workspace.segments, work, 2 * t, column + r, whole);
    home.Load(for_each_element);
    // S^T in bf16, the operand: in registers, or as panels behind the stages.
    uint32_t operand[kSharedState ? 1 : kSteps][4];
    const uint32_t outputs = kStages + stages * Stage::kBytes;  // offset of a panel a slice
    const uint32_t shared_operand = full + outputs + kSlices * kPanelBytes;
    const auto round_state = [&] {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t(&target)[4] = operand[kSharedState ? 0 : step];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&s)[4] = state[step / 4][step % 4 * 2 + i / 2];
          target[i] = Pack(s[i % 2 * 2], s[i % 2 * 2 + 1]);
        }
        if constexpr (kSharedState) {
          StoreMatrices(shared_operand + step / 4 * kPanelBytes +
                            PanelOffset(16 * warp + lane % 16, step % 4 * 2 + lane / 16),
                        target);
        }
      }
      if constexpr (kSharedState) {
        PublishToTensorCores();
        SyncThreads<kWarpgroup>(3 + slice);
      }
    };
    round_state();

    // sums (+)= S^T times the transpose of a stage's matrix [64, K], steps [begin, end).
    const auto multiply_state = [&](float(&sums)[8][4], uint32_t stage, int matrix, int begin,
                                    int end) {
      BeginProducts();
#pragma unroll
      for (int step = begin; step < end; ++step) {
        const int offset = step / 4 * kPanelBytes + step % 4 * 32;
        const uint64_t columns = RowsDescriptor(stage, matrix + offset);
        if constexpr (kSharedState) {
          WarpgroupMultiplyAdd(sums, RowsDescriptor(shared_operand, offset), columns, step > 0);
        } else {
          WarpgroupMultiplyAdd<false>(sums, operand[step], columns, step > 0);
        }
      }
      CommitProducts();
    };
    // sums (+)= u^T times the transpose of a stage's triangle.
    const auto multiply_tokens = [&](TriangleSums& sums, const uint32_t(&u)[4][4], uint32_t stage,
                                     int triangle, bool add) {
      BeginProducts();
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int step = 0; step < 2 * (part + 3 - kParts); ++step) {
          const uint64_t rows = TriangleRowsDescriptor(stage, triangle, 32 * part, step);
          if constexpr (kParts == 1) {
            WarpgroupMultiplyAdd<false>(sums[part], u[step], rows, add || step > 0);
          } else {
            WarpgroupMultiplyAdd(sums[part], u[step], rows, add || step > 0);
          }
        }
      }
      CommitProducts();
    };

    // This lane's row in ldmatrix and stmatrix of [token, column] as transposed 8x8 matrices:
    // tokens 16 step + 8 * (matrix / 2), columns 8 * (matrix % 2) of this warp's 16.
    const uint32_t row_offset =
        slice * kPanelBytes + PanelOffset(lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2);
    const char* const finished =
        shared + outputs + slice * kPanelBytes + PanelOffset(lane / 2, 2 * warp + lane % 2);
    auto* out = static_cast<__nv_bfloat16*>(p.out) +
                static_cast<int64_t>(work.begin + lane / 2) * p.out_stride +
                work.head * p.value_dim + column + lane % 2 * 8;
    int tokens_left = work.end - work.begin - lane / 2;
    // Of the chunk that waits in the panel; none at first.
    __nv_bfloat16* finished_out = out;
    int finished_tokens = 0;
    // O^T to this warp's columns of a panel.
    const auto finish = [&](const TriangleSums& sums) {
      __syncwarp();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int tile = 2 * step + i / 2;
          const float(&x)[4] = sums[tile / kPartTiles][tile % kPartTiles];
          pairs[i] = Pack(x[i % 2 * 2], x[i % 2 * 2 + 1]);
        }
        StoreMatricesTransposed(full + outputs + row_offset + step * 2048, pairs);
      }
      finished_out = out;
      finished_tokens = tokens_left;
      out += kWideChunk * p.out_stride;
      tokens_left -= kWideChunk;
    };
    // And from there to memory.
    const auto store_finished = [&] {
      __syncwarp();
#pragma unroll
      for (int pass = 0; pass < 4; ++pass) {
        const uint4 row = *reinterpret_cast<const uint4*>(finished + 2048 * pass);
        StoreIf(inside && 16 * pass < finished_tokens, finished_out + 16 * pass * p.out_stride,
                row);
      }
    };

    const int num_chunks = (work.end - work.begin + kWideChunk - 1) / kWideChunk;
    // What a chunk needs first: X of the state it starts from, or O's share of it.
    constexpr int kFirst = kDelta ? Stage::kKey : Stage::kQuery;
    // Products of O in flight while one of the chain is waited for.
    constexpr int kBehindChain = kOutputs ? 1 : 0;

    RingPosition position;
    for (int chunk = 0; chunk < num_chunks; ++chunk) {
      // Nothing is in flight here: the compiler follows products only through code without
      // branches.
      Wait(full + 8 * position.stage, position.parity);
      const uint32_t stage = full + kStages + position.stage * Stage::kBytes;
      const float* const decay =
          reinterpret_cast<const float*>(shared + 128 + position.stage * Stage::kDecayBytes);
      TokenSums<1> first, o;
      TriangleSums u_parts, o_parts;
      TokenSums<1>& from_state = kDelta ? o : first;  // O's share of it
      TriangleSums& u_sums = SumsOf(first, u_parts);
      TriangleSums& o_sums = SumsOf(from_state, o_parts);
      // A scalar decay at tokens 8 tile + 2 t and + 1: from the chunk's start, to its end.
      float2 from_start[8], to_end[8];
      const auto load_decays = [&](const float* source, float2(&target)[8]) {
#pragma unroll
        for (int tile = 0; tile < 8; ++tile) {
          target[tile] = *reinterpret_cast<const float2*>(source + 8 * tile + 2 * t);
        }
      };
      const auto decay_state = [&] {
        const float whole = decay[kWideChunk - 1];
#pragma unroll
        for (auto& panel : state) {
#pragma unroll
          for (auto& tile : panel) {
#pragma unroll
            for (float& s : tile) s *= whole;
          }
        }
      };
      if constexpr (kDelta) {
        multiply_state(first[0], stage, kFirst, 0, kSteps);
        if constexpr (kOutputs) multiply_state(o[0], stage, Stage::kQuery, 0, kSteps / 2);
      }
      uint32_t u[4][4], u_to_end[4][4];  // U^T as A operand
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        LoadMatricesTransposed(u[step], stage + Stage::kValue + row_offset + step * 2048);
      }
      load_decays(decay, from_start);
      if constexpr (kDelta) {
        if constexpr (kOutputs) store_finished();
        WaitForProducts<kBehindChain>();
        Settle(first);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int tile = 2 * step + i / 2, e = i % 2 * 2;
            const float2 start = from_start[tile];
            u[step][i] = Pack(Low(u[step][i]) - start.x * first[0][tile][e],
                              High(u[step][i]) - start.y * first[0][tile][e + 1]);
          }
        }
        multiply_tokens(u_sums, u, stage, Stage::kTransform, false);
        if constexpr (kOutputs) multiply_state(o[0], stage, Stage::kQuery, kSteps / 2, kSteps);
        load_decays(decay + kWideChunk, to_end);
        decay_state();
        WaitForProducts<kBehindChain>();
        Settle(u_sums);
      } else {
        load_decays(decay + kWideChunk, to_end);
        decay_state();
      }
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int tile = 2 * step + i / 2, e = i % 2 * 2;
          const float2 end = to_end[tile];
          if constexpr (kDelta) {
            const float(&sums)[4] = u_sums[tile / kPartTiles][tile % kPartTiles];
            const float x = sums[e], y = sums[e + 1];
            u[step][i] = Pack(x, y);
            u_to_end[step][i] = Pack(x * end.x, y * end.y);
          } else {
            u_to_end[step][i] = Pack(Low(u[step][i]) * end.x, High(u[step][i]) * end.y);
          }
        }
      }

      // Without a chain through X, all that is not a product comes before the first one.
      if constexpr (!kDelta && kOutputs) multiply_state(first[0], stage, kFirst, 0, kSteps);
      BeginProducts();
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          WarpgroupMultiplyAdd<true>(
              state[panel], u_to_end[step],
              ContractedRowsDescriptor(stage, Stage::kKey + panel * kPanelBytes + 2048 * step),
              true);
        }
      }
      CommitProducts();
      if constexpr (kOutputs) {
        if constexpr (!kDelta) store_finished();
        if constexpr (kSharedState) load_decays(decay, from_start);  // again: registers are few
        WaitForProducts<1>();
        Settle(from_state);
#pragma unroll
        for (int tile = 0; tile < 8; ++tile) {
          const float2 start = from_start[tile];
          const float scales[2] = {p.scale * start.x, p.scale * start.y};
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            o_sums[tile / kPartTiles][tile % kPartTiles][e] =
                from_state[0][tile][e] * scales[e % 2];
          }
        }
        multiply_tokens(o_sums, u, stage, Stage::kAttention, true);
      }
      WaitForProducts<kBehindChain>();
      Settle(state);
      round_state();
      if constexpr (kOutputs) {
        WaitForProducts<0>();
        Settle(o_sums);
        finish(o_sums);
      }
      Arrive(empty + 8 * position.stage);
      position.Advance(stages);
    }
    if constexpr (kOutputs) store_finished();

    home.Store(for_each_element);
  }
}

template <int kPanels, int kSlices, bool kDelta, ScanPass kPass>
void LaunchWideScanKernel(const RecurrenceParams& p, const ScanLaunch& launch) {
  using Stage = WideStage<kPanels, kSlices, kDelta>;
  constexpr int kStage = Stage::kBytes;
  constexpr int kFixed =
      WideHeaderBytes<Stage>() + (kSlices + (kPanels > 2 ? kPanels : 0)) * kPanelBytes;
  const int stages = std::clamp((MaxSharedBytes() - kFixed) / kStage, 2, kMaxWideStages);
  const int bytes = kFixed + stages * kStage;
  const auto kernel = WideScanKernel<kPanels, kSlices, kDelta, kPass>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  const dim3 grid(ScanColumnBlocks(p, kPass, kDelta, kWideSlice * kSlices), p.heads,
                  ScanPieces(p, launch.window, launch.workspace.segments));
  constexpr int kThreads = WideThreads<kPanels, kSlices, kDelta, kPass>();
  const auto map = [&](const void* rows, int64_t stride, int group, int head_dim) {
    return MakeHeadMap(rows, stride, p.heads / group, head_dim, kWideChunk);
  };
  const WideMaps maps = {map(p.q, p.q_stride, p.q_group, p.key_dim),
                         map(p.k, p.k_stride, p.k_group, p.key_dim),
                         map(p.v, p.v_stride, p.v_group, p.value_dim)};
  Check(LaunchChained(kernel, grid, kThreads, bytes, launch.stream, launch.plan.beside_first, p,
                      maps, launch.window, launch.workspace, stages),
        "WideScanKernel");
}

template <bool kDelta, ScanPass kPass>
void LaunchWideScan(const RecurrenceParams& p, const ScanLaunch& launch) {
  const bool two = launch.plan.slices_per_block == 2;
  switch (WidePanels(p.key_dim)) {
    case 1:
      return two ? LaunchWideScanKernel<1, 2, kDelta, kPass>(p, launch)
                 : LaunchWideScanKernel<1, 1, kDelta, kPass>(p, launch);
    case 2:
      return two ? LaunchWideScanKernel<2, 2, kDelta, kPass>(p, launch)
                 : LaunchWideScanKernel<2, 1, kDelta, kPass>(p, launch);
    default:
      return LaunchWideScanKernel<4, 1, kDelta, kPass>(p, launch);
  }
}

}  // namespace fla::cuda
