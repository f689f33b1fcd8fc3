// The sequential half of wide prefill: carries the state over the chunks of a sequence, on Hopper.
//
// As chunk_scan.cuh, with chunks of C = 64 tokens, slices of 64 of the state's columns, and wgmma.
// A warpgroup has one slice, S^T [64, K], in registers, as sums and, rounded, as operand. With X^T
// for "columns are tokens" a chunk is
//
//   X^T = V^T - (S^T K_start^T)        U^T = X^T T^T                (kDelta; else U = V)
//   O^T = S^T Q_start^T + U^T P^T      S^T <- S^T decay + U^T K_end
//
// Only K_start, Q_start, T, P, K_end and V pass through shared memory, and O on its way out, in V's
// place. The products are issued so that the chain from state to state, X, U, S, never waits for
// those of O.
//
// Grid (V / 64 / kSlices, H, N); a block has kSlices computing warpgroups, which share the chunk's
// operands, and one that brings these through a ring of stages.
#pragma once

#include <algorithm>

#include "kernels/cuda/chunk_window.cuh"
#include "kernels/cuda/scan_ring.cuh"
#include "kernels/cuda/warpgroup.cuh"
#include "kernels/cuda/wide_record.cuh"

namespace fla::cuda {

inline constexpr int kWideSlice = 64, kMaxWideStages = 4, kWarpgroup = 128;

// In front of the stages: barriers, then the decays of each.
template <typename Stage>
constexpr int WideHeaderBytes() {
  constexpr int decay = Stage::kRecord.bytes - Stage::kRecord.decay;
  return (128 + kMaxWideStages * decay + 1023) / 1024 * 1024;
}
static_assert(2 * 8 * kMaxWideStages <= 128);

// The loading warpgroup. Neighbouring threads copy neighbouring pieces of 16 bytes.
template <int kPanels, int kSlices, bool kDelta, bool kChannel>
class WideLoader {
  using Stage = WideStage<kPanels, kDelta, kChannel>;
  static constexpr WideRecord kRecord = Stage::kRecord;
  static constexpr uint32_t kNone = ~0u;

 public:
  __device__ __forceinline__ WideLoader(const RecurrenceParams& p, const ChunkWorkspace& workspace,
                                        const SequenceInWindow& sequence)
      : thread_(threadIdx.x % kWarpgroup),
        tokens_(sequence.end - sequence.begin),
        key_dim_(p.key_dim),
        record_stride_(static_cast<int64_t>(p.heads) * kRecord.bytes) {
    const int h = blockIdx.y, column = blockIdx.x * kWideSlice * kSlices;
    record_ = workspace.records +
              (static_cast<int64_t>(sequence.first_slot) * p.heads + h) * kRecord.bytes;
    const auto rows = [&](const void* x, int64_t stride, int first_column) {
      return Rows{static_cast<const __nv_bfloat16*>(x) + sequence.begin * stride + first_column,
                  stride};
    };
    q_ = rows(p.q, p.q_stride, h / p.q_group * p.key_dim);
    k_ = rows(p.k, p.k_stride, h / p.k_group * p.key_dim);
    v_ = rows(p.v, p.v_stride, h / p.v_group * p.value_dim + column);
    value_columns_ = p.value_dim - column;
  }

  // Loads all chunks, each as soon as its stage is empty. The barriers are those of stage 0.
  __device__ __forceinline__ void Run(int stages, uint32_t full, uint32_t empty, uint32_t decays,
                                      uint32_t first_stage) {
    RingPosition position;
    uint32_t in_flight = kNone;  // the barrier of the stage before, whose copies are under way
    for (int first = 0; first < tokens_; first += kWideChunk) {
      Wait(empty + 8 * position.stage, position.parity ^ 1);
      const uint32_t stage = first_stage + position.stage * Stage::Bytes(kSlices);
      CopyLinear<kRecord.matrices>(stage, record_);
      CopyLinear<kRecord.bytes - kRecord.decay>(
          decays + position.stage * (kRecord.bytes - kRecord.decay), record_ + kRecord.decay);
      record_ += record_stride_;
      if constexpr (!kChannel) {
        CopyRows<kPanels>(stage + Stage::kQuery, q_, tokens_ - first, key_dim_);
        CopyRows<kPanels>(stage + Stage::kKeyEnd, k_, tokens_ - first, key_dim_);
      }
      CopyRows<kSlices>(stage + Stage::kValue, v_, tokens_ - first, value_columns_);
      CommitCopies();
      // With two stages the next one empties only after this one is full.
      if (in_flight != kNone) Announce<1>(in_flight);
      in_flight = full + 8 * position.stage;
      if (stages == 2) {
        Announce<0>(in_flight);
        in_flight = kNone;
      }
      position.Advance(stages);
    }
    if (in_flight != kNone) Announce<0>(in_flight);
  }

 private:
  struct Rows {
    const __nv_bfloat16* first;
    int64_t stride;
  };

  template <int kPending>
  __device__ __forceinline__ static void Announce(uint32_t barrier) {
    WaitForCopies<kPending>();
    PublishToTensorCores();
    Arrive(barrier);
  }

  template <int kBytes>
  __device__ __forceinline__ void CopyLinear(uint32_t target, const char* source) const {
#pragma unroll
    for (int i = 0; i < kBytes; i += 16 * kWarpgroup) {
      const int offset = i + 16 * thread_;
      if (offset < kBytes) CopyAsync(target + offset, source + offset, true);
    }
  }

  // The next 64 rows, as kWidth panels; what is behind the sequence or the head is 0.
  template <int kWidth>
  __device__ __forceinline__ void CopyRows(uint32_t target, Rows& rows, int tokens,
                                           int columns) const {
    constexpr int kPieces = 8 * kWidth, kRows = kWarpgroup / kPieces;
    const int piece = thread_ % kPieces, first_row = thread_ / kPieces;
    const __nv_bfloat16* source = rows.first + first_row * rows.stride + 8 * piece;
    const bool inside = 8 * piece < columns;
#pragma unroll
    for (int i = 0; i < kWideChunk; i += kRows) {
      const bool valid = inside && first_row + i < tokens;
      CopyAsync(target + piece / 8 * kPanelBytes + PanelOffset(first_row + i, piece % 8),
                valid ? source : rows.first, valid);
      source += kRows * rows.stride;
    }
    rows.first += kWideChunk * rows.stride;
  }

  const int thread_, tokens_, key_dim_;
  const int64_t record_stride_;
  const char* record_;
  Rows q_, k_, v_;
  int value_columns_;
};

template <int kPanels, int kSlices, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(kWarpgroup*(kSlices + 1), 1)
    WideScanKernel(const RecurrenceParams p, const TokenWindow window,
                   const ChunkWorkspace workspace, const int stages) {
  using Stage = WideStage<kPanels, kDelta, kChannel>;
  constexpr int kSteps = 4 * kPanels;  // of 16 channels
  constexpr int kDecayBytes = Stage::kRecord.bytes - Stage::kRecord.decay;
  constexpr int kHeaderBytes = WideHeaderBytes<Stage>();
  extern __shared__ __align__(1024) char shared[];
  const int n = blockIdx.z, h = blockIdx.y;
  const SequenceInWindow sequence = FindSequence<kWideChunk>(p.cu_seqlens, n, window);
  if (sequence.begin >= sequence.end) return;
  const int slice = threadIdx.x / kWarpgroup, K = p.key_dim, V = p.value_dim;
  const int block_column = blockIdx.x * kWideSlice * kSlices;
  const uint32_t full = SharedAddress(shared), empty = full + 8 * kMaxWideStages;
  if (threadIdx.x == 0) {
    const int readers = min(kSlices, (V - block_column + kWideSlice - 1) / kWideSlice);
    for (int i = 0; i < stages; ++i) {
      InitBarrier(full + 8 * i, kWarpgroup);
      InitBarrier(empty + 8 * i, readers * kWarpgroup);
    }
  }
  __syncthreads();

  if (slice == kSlices) {
    if constexpr (kSlices > 1) ShrinkRegisters<40>();
    WideLoader<kPanels, kSlices, kDelta, kChannel> loader(p, workspace, sequence);
    loader.Run(stages, full, empty, full + 128, full + kHeaderBytes);
  } else {
    if constexpr (kSlices > 1) GrowRegisters<232>();
    if (block_column + slice * kWideSlice >= V) return;
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
    const int column = block_column + slice * kWideSlice + 16 * warp;  // of this warp's 16
    const bool inside = column < V;

    // Element (v = column + r + 8 * (e / 2), k = 64 * panel + 8 * tile + 2 t + e % 2) of S^T.
    float state[kPanels][8][4];
    const int64_t state_offset =
        (static_cast<int64_t>(p.slots[n]) * p.heads + h) * K * V + column + r;
    const auto for_each_element = [&](auto&& visit) {
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll
        for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int channel = 64 * panel + 8 * tile + 2 * t + e % 2;
            visit(state[panel][tile][e], inside && channel < K,
                  state_offset + static_cast<int64_t>(channel) * V + e / 2 * 8);
          }
        }
      }
    };
    if (p.bf16_state) {
      for_each_element([&](float& s, bool valid, int64_t i) {
        s = valid ? __bfloat162float(static_cast<const __nv_bfloat16*>(p.state)[i]) : 0.0f;
      });
    } else {
      for_each_element([&](float& s, bool valid, int64_t i) {
        s = valid ? static_cast<const float*>(p.state)[i] : 0.0f;
      });
    }
    uint32_t operand[kSteps][4];  // S^T in bf16
    const auto round_state = [&] {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&s)[4] = state[step / 4][step % 4 * 2 + i / 2];
          operand[step][i] = Pack(s[i % 2 * 2], s[i % 2 * 2 + 1]);
        }
      }
    };
    round_state();

    // sums (+)= S^T times the transpose of a matrix [64, K], steps [begin, end).
    const auto multiply_state = [&](float(&sums)[8][4], uint32_t matrix, int begin, int end) {
      BeginProducts();
#pragma unroll
      for (int step = begin; step < end; ++step) {
        const uint32_t offset = step / 4 * kPanelBytes + step % 4 * 32;
        WarpgroupMultiplyAdd<false>(sums, operand[step], RowsDescriptor(matrix + offset), step > 0);
      }
      CommitProducts();
    };
    // sums (+)= u^T times the transpose of a matrix [64, 64].
    const auto multiply_tokens = [&](float(&sums)[8][4], const uint32_t(&u)[4][4], uint32_t matrix,
                                     bool add) {
      BeginProducts();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        WarpgroupMultiplyAdd<false>(sums, u[step], RowsDescriptor(matrix + 32 * step),
                                    add || step > 0);
      }
      CommitProducts();
    };

    // This lane's row in ldmatrix and stmatrix of [token, column] as transposed 8x8 matrices:
    // tokens 16 step + 8 * (matrix / 2), columns 8 * (matrix % 2) of this warp's 16.
    const uint32_t value_offset = Stage::kValue + slice * kPanelBytes +
                                  PanelOffset(lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2);
    auto* out = static_cast<__nv_bfloat16*>(p.out) +
                static_cast<int64_t>(sequence.begin + lane / 2) * p.out_stride + h * V + column +
                lane % 2 * 8;
    int tokens_left = sequence.end - sequence.begin - lane / 2;
    const int num_chunks = (sequence.end - sequence.begin + kWideChunk - 1) / kWideChunk;
    // What a chunk needs first: X of the state it starts from, or O's share of it.
    constexpr int kFirst = kDelta ? Stage::kKeyStart : Stage::kQuery;
    uint32_t finished[4][4] = {};  // O^T of the chunk before, as A operand

    // `finished` to where V was in its stage, this warp's columns only, and from there to memory.
    const auto store_finished = [&](uint32_t stage) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        StoreMatricesTransposed(stage + value_offset + step * 2048, finished[step]);
      }
      __syncwarp();
      const char* const staged = shared + (stage - full) + Stage::kValue + slice * kPanelBytes +
                                 PanelOffset(lane / 2, 2 * warp + lane % 2);
#pragma unroll
      for (int pass = 0; pass < 4; ++pass) {
        const uint4 row = *reinterpret_cast<const uint4*>(staged + 2048 * pass);
        if (inside && 16 * pass < tokens_left) {
          *reinterpret_cast<uint4*>(out + 16 * pass * p.out_stride) = row;
        }
      }
      out += kWideChunk * p.out_stride;
      tokens_left -= kWideChunk;
    };

    RingPosition position;
    for (int chunk = 0; chunk < num_chunks; ++chunk) {
      // Nothing is in flight here: the compiler follows products only through code without
      // branches.
      Wait(full + 8 * position.stage, position.parity);
      const uint32_t stage = full + kHeaderBytes + position.stage * Stage::Bytes(kSlices);
      const float* const decay =
          reinterpret_cast<const float*>(shared + 128 + position.stage * kDecayBytes);
      float first[8][4], o[8][4];
      const auto decay_state = [&] {
        const float whole = kChannel ? 1.0f : decay[kWideChunk - 1];
#pragma unroll
        for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll
          for (int tile = 0; tile < 8; ++tile) {
            float2 factor = make_float2(whole, whole);
            if constexpr (kChannel) {
              factor = *reinterpret_cast<const float2*>(decay + 64 * panel + 8 * tile + 2 * t);
            }
            float(&s)[4] = state[panel][tile];
            s[0] *= factor.x, s[1] *= factor.y, s[2] *= factor.x, s[3] *= factor.y;
          }
        }
      };
      if constexpr (kDelta) {
        multiply_state(first, stage + kFirst, 0, kSteps);
        multiply_state(o, stage + Stage::kQuery, 0, kSteps / 2);
      }
      uint32_t u[4][4], u_to_end[4][4];  // U^T as A operand
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        LoadMatricesTransposed(u[step], stage + value_offset + step * 2048);
      }
      // A scalar decay at tokens 16 step + 8 * (i / 2) + 2 t and + 1, of register i of a step.
      const auto from_start = [&](int tile) {
        return kChannel ? make_float2(1.0f, 1.0f)
                        : *reinterpret_cast<const float2*>(decay + 8 * tile + 2 * t);
      };
      const auto to_end = [&](int tile) {
        return kChannel ? make_float2(1.0f, 1.0f)
                        : *reinterpret_cast<const float2*>(decay + kWideChunk + 8 * tile + 2 * t);
      };
      if constexpr (kDelta) {
        WaitForProducts<1>();
        Settle(first);
#pragma unroll
        for (int step = 0; step < 4; ++step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int tile = 2 * step + i / 2, e = i % 2 * 2;
            const float2 start = from_start(tile);
            u[step][i] = Pack(Low(u[step][i]) - start.x * first[tile][e],
                              High(u[step][i]) - start.y * first[tile][e + 1]);
          }
        }
        multiply_tokens(first, u, stage + Stage::kTransform, false);
        multiply_state(o, stage + Stage::kQuery, kSteps / 2, kSteps);
        WaitForProducts<1>();
        Settle(first);
      }
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int tile = 2 * step + i / 2, e = i % 2 * 2;
          if constexpr (kDelta) {
            const float x = first[tile][e], y = first[tile][e + 1];
            const float2 end = to_end(tile);
            u[step][i] = Pack(x, y);
            u_to_end[step][i] = kChannel ? u[step][i] : Pack(x * end.x, y * end.y);
          } else if (kChannel) {
            u_to_end[step][i] = u[step][i];
          } else {
            const float2 end = to_end(tile);
            u_to_end[step][i] = Pack(Low(u[step][i]) * end.x, High(u[step][i]) * end.y);
          }
        }
      }

      decay_state();
      // Without a chain through X, all that is not a product comes before the first one.
      if constexpr (!kDelta) multiply_state(first, stage + kFirst, 0, kSteps);
      BeginProducts();
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          WarpgroupMultiplyAdd<true>(
              state[panel], u_to_end[step],
              ContractedRowsDescriptor(stage + Stage::kKeyEnd + panel * kPanelBytes + 2048 * step),
              true);
        }
      }
      CommitProducts();
      WaitForProducts<1>();
      float(&sums)[8][4] = kDelta ? o : first;  // O's share of the state
      Settle(sums);
#pragma unroll
      for (int tile = 0; tile < 8; ++tile) {
        const float2 start = from_start(tile);
        if constexpr (!kChannel) {
          sums[tile][0] *= p.scale * start.x, sums[tile][1] *= p.scale * start.y;
          sums[tile][2] *= p.scale * start.x, sums[tile][3] *= p.scale * start.y;
        }
      }
      multiply_tokens(sums, u, stage + Stage::kAttention, true);
      WaitForProducts<1>();
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) Settle(state[panel]);
      round_state();
      WaitForProducts<0>();
      Settle(sums);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&x)[4] = sums[2 * step + i / 2];
          finished[step][i] = Pack(x[i % 2 * 2], x[i % 2 * 2 + 1]);
        }
      }
      __syncwarp();
      store_finished(stage);
      Arrive(empty + 8 * position.stage);
      position.Advance(stages);
    }

    if (p.bf16_state) {
      for_each_element([&](float& s, bool valid, int64_t i) {
        if (valid) static_cast<__nv_bfloat16*>(p.state)[i] = __float2bfloat16(s);
      });
    } else {
      for_each_element([&](float& s, bool valid, int64_t i) {
        if (valid) static_cast<float*>(p.state)[i] = s;
      });
    }
  }
}

template <int kPanels, int kSlices, bool kDelta, bool kChannel>
void LaunchWideScanKernel(const RecurrenceParams& p, TokenWindow window,
                          const ChunkWorkspace& workspace, cudaStream_t stream) {
  using Stage = WideStage<kPanels, kDelta, kChannel>;
  constexpr int kHeader = WideHeaderBytes<Stage>(), kStage = Stage::Bytes(kSlices);
  const int stages = std::clamp((MaxSharedBytes() - kHeader) / kStage, 2, kMaxWideStages);
  const int bytes = kHeader + stages * kStage;
  const auto kernel = WideScanKernel<kPanels, kSlices, kDelta, kChannel>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  const int blocks = (p.value_dim + kWideSlice * kSlices - 1) / (kWideSlice * kSlices);
  WideScanKernel<kPanels, kSlices, kDelta, kChannel>
      <<<dim3(blocks, p.heads, p.num_sequences), kWarpgroup*(kSlices + 1), bytes, stream>>>(
          p, window, workspace, stages);
  CheckLaunch("WideScanKernel");
}

template <bool kDelta>
void LaunchWideScan(const RecurrenceParams& p, int slices_per_block, TokenWindow window,
                    const ChunkWorkspace& workspace, cudaStream_t stream) {
  const bool two = slices_per_block == 2;
  if (p.key_dim <= 64) {
    two ? LaunchWideScanKernel<1, 2, kDelta, false>(p, window, workspace, stream)
        : LaunchWideScanKernel<1, 1, kDelta, false>(p, window, workspace, stream);
  } else {
    two ? LaunchWideScanKernel<2, 2, kDelta, false>(p, window, workspace, stream)
        : LaunchWideScanKernel<2, 1, kDelta, false>(p, window, workspace, stream);
  }
}

}  // namespace fla::cuda
