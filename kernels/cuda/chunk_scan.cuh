// The sequential half of prefill: carries the state over the chunks of a sequence.
//
// Grid (V slices of 16 * warps, H, N). The state's columns are independent, so a warp owns 16 of
// them for the whole sequence, as S^T [16, K] in the registers of a tensor-core accumulator, and
// the warps of a block share only the chunk's operands, which a ring of cp.async stages brings.
// With C = 16 tokens a chunk and X^T for "columns are tokens", a warp does for each chunk
//
//   X^T = V^T - (S^T K_start^T)        U^T = X^T T^T                (kDelta; else U = V)
//   O^T = S^T Q_start^T + U^T P^T      S^T <- S^T decay + U^T K_end
//
// Accumulators become operands in registers; nothing but the outputs is written before the end. A
// scalar decay scales accumulators (query, key_start and key_end are then q and k themselves); a
// decay per channel has been multiplied in by ChunkPrepare.
#pragma once

#include <type_traits>

#include "kernels/cuda/chunk_tile.cuh"

namespace fla::cuda {

// Shared memory of one stage, bytes. Rows are an odd multiple of 16 bytes apart, so that the eight
// rows of an ldmatrix lie in different banks.
template <int kMaxK, bool kDelta, bool kChannel>
struct ScanStage {
  static constexpr int kRow = 2 * kMaxK + 16, kTriangleRow = 2 * kChunk + 16;
  static constexpr int kQuery = 0;
  static constexpr int kKeyEnd = kQuery + kChunk * kRow;
  static constexpr int kKeyStart = kKeyEnd + (kDelta && kChannel ? kChunk * kRow : 0);
  static constexpr int kAttention = kKeyStart + kChunk * kRow;
  static constexpr int kTransform = kAttention + kChunk * kTriangleRow;
  static constexpr int kDecay = kTransform + (kDelta ? kChunk * kTriangleRow : 0);
  static constexpr int kValue = kDecay + (kChannel ? 4 * kMaxK : 8 * kChunk);
  static constexpr int Bytes(int warps) { return kValue + kChunk * (32 * warps + 16); }
};

template <int kMaxK>
constexpr int ScanStages() {
  return kMaxK <= 64 ? 6 : kMaxK <= 128 ? 4 : 3;
}

template <int kMaxK, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(kMaxK > 128 ? 128 : 256)
    ChunkScanKernel(const RecurrenceParams p, const ChunkRecord layout, const TokenWindow window,
                    const char* __restrict__ workspace) {
  using Stage = ScanStage<kMaxK, kDelta, kChannel>;
  constexpr int kStages = ScanStages<kMaxK>(), kTiles = kMaxK / 8;
  extern __shared__ __align__(16) char shared[];
  const int n = blockIdx.z, h = blockIdx.y;
  const SequenceInWindow sequence = FindSequence(p.cu_seqlens, n, window);
  if (sequence.begin >= sequence.end) return;
  const int num_chunks = (sequence.end - sequence.begin + kChunk - 1) / kChunk;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int r = lane / 4, t = lane % 4, K = p.key_dim, V = p.value_dim;
  const int block_column = blockIdx.x * 16 * warps, column = block_column + 16 * warp;
  const bool active = column < V;
  const int stage_bytes = Stage::Bytes(warps), value_row = 32 * warps + 16;
  const uint32_t shared_base = SharedAddress(shared);

  // Channels behind K stay zero in every stage.
  if (K < kMaxK) {
    for (int i = 4 * threadIdx.x; i < kStages * stage_bytes; i += 4 * blockDim.x) {
      *reinterpret_cast<uint32_t*>(shared + i) = 0;
    }
    __syncthreads();
  }

  const char* const records =
      workspace + (static_cast<int64_t>(sequence.first_slot) * p.heads + h) * layout.bytes;
  const auto* const q = static_cast<const __nv_bfloat16*>(p.q) + h / p.q_group * K;
  const auto* const k = static_cast<const __nv_bfloat16*>(p.k) + h / p.k_group * K;
  const auto* const v = static_cast<const __nv_bfloat16*>(p.v) + h / p.v_group * V + block_column;

  const auto load_chunk = [&](int chunk) {
    if (chunk < num_chunks) {
      const uint32_t stage = shared_base + chunk % kStages * stage_bytes;
      const char* const record = records + static_cast<int64_t>(chunk) * p.heads * layout.bytes;
      const int first_token = sequence.begin + chunk * kChunk;
      for (int i = threadIdx.x; i < kChunk * kMaxK / 8; i += blockDim.x) {
        const int row = i / (kMaxK / 8), piece = i % (kMaxK / 8);
        if (8 * piece >= K) continue;
        const uint32_t target = stage + row * Stage::kRow + 16 * piece;
        if constexpr (kChannel) {
          const char* const source = record + (row * K + 8 * piece) * 2;
          CopyAsync(target + Stage::kQuery, source + layout.query, true);
          CopyAsync(target + Stage::kKeyEnd, source + layout.key_end, true);
          if constexpr (kDelta) {
            CopyAsync(target + Stage::kKeyStart, source + layout.key_start, true);
          }
        } else {
          const bool valid = first_token + row < sequence.end;
          const int64_t token = valid ? first_token + row : first_token;
          CopyAsync(target + Stage::kQuery, q + token * p.q_stride + 8 * piece, valid);
          CopyAsync(target + Stage::kKeyEnd, k + token * p.k_stride + 8 * piece, valid);
        }
      }
      for (int i = threadIdx.x; i < kChunk * 2 * warps; i += blockDim.x) {
        const int row = i / (2 * warps), piece = i % (2 * warps);
        if (block_column + 8 * piece >= V) continue;
        const bool valid = first_token + row < sequence.end;
        const int64_t token = valid ? first_token + row : first_token;
        CopyAsync(stage + Stage::kValue + row * value_row + 16 * piece,
                  v + token * p.v_stride + 8 * piece, valid);
      }
      for (int i = threadIdx.x; i < 2 * kChunk; i += blockDim.x) {
        const uint32_t offset = i / 2 * Stage::kTriangleRow + i % 2 * 16;
        CopyAsync(stage + Stage::kAttention + offset, record + layout.attention + 16 * i, true);
        if constexpr (kDelta) {
          CopyAsync(stage + Stage::kTransform + offset, record + layout.transform + 16 * i, true);
        }
      }
      for (int i = threadIdx.x; i < (kChannel ? K / 4 : kChunk / 2); i += blockDim.x) {
        CopyAsync(stage + Stage::kDecay + 16 * i, record + layout.decay + 16 * i, true);
      }
    }
    CommitCopies();
  };

#pragma unroll
  for (int chunk = 0; chunk < kStages - 1; ++chunk) load_chunk(chunk);

  // Element (v = column + r + 8 * (e / 2), k = 8 * tile + 2 t + e % 2) of S^T.
  float state[kTiles][4];
  const int64_t state_offset =
      (static_cast<int64_t>(p.slots[n]) * p.heads + h) * K * V + column + r;
  const auto for_each_element = [&](auto&& visit) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int channel = 8 * tile + 2 * t + e % 2;
        visit(state[tile][e], active && channel < K,
              state_offset + static_cast<int64_t>(channel) * V + e / 2 * 8);
      }
    }
  };
  if (p.bf16_state) {
    for_each_element([&](float& s, bool inside, int64_t i) {
      s = inside ? __bfloat162float(static_cast<const __nv_bfloat16*>(p.state)[i]) : 0.0f;
    });
  } else {
    for_each_element([&](float& s, bool inside, int64_t i) {
      s = inside ? static_cast<const float*>(p.state)[i] : 0.0f;
    });
  }

  // Byte offsets of this lane's row in ldmatrix: of operands whose rows are the product's columns,
  // of key_end (rows are contracted) and of the values (read as V^T).
  const int row_of_matrix = lane % 8;
  const int operand_row = lane / 16 * 8 + row_of_matrix, operand_column = lane / 8 % 2 * 16;
  const uint32_t operand = operand_row * Stage::kRow + operand_column;
  const uint32_t triangle = operand_row * Stage::kTriangleRow + operand_column;
  const uint32_t key_end = (lane / 8 % 2 * 8 + row_of_matrix) * Stage::kRow + lane / 16 * 16;
  const uint32_t value = operand_row * value_row + operand_column + 32 * warp;

  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    WaitForCopies<kStages - 2>();
    __syncthreads();  // this chunk is there, and all have left the stage that is filled next
    load_chunk(chunk + kStages - 1);
    if (!active) continue;
    const int stage_offset = chunk % kStages * stage_bytes;
    const uint32_t stage = shared_base + stage_offset;
    const float* const decay =
        reinterpret_cast<const float*>(shared + stage_offset + Stage::kDecay);

    // Tiles of tokens 0-7 and 8-15, split over even and odd contraction steps to shorten the
    // chains.
    float o[2][2][4] = {}, x[2][2][4] = {};
#pragma unroll
    for (int step = 0; step < kTiles / 2; ++step) {
      const float(&s)[4] = state[2 * step];
      const float(&s_next)[4] = state[2 * step + 1];
      const uint32_t a[4] = {Pack(s[0], s[1]), Pack(s[2], s[3]), Pack(s_next[0], s_next[1]),
                             Pack(s_next[2], s_next[3])};
      uint32_t b[4];
      if constexpr (kDelta) {
        LoadMatrices(b, stage + Stage::kKeyStart + operand + 32 * step);
        MultiplyAdd(x[step % 2][0], a[0], a[1], a[2], a[3], b[0], b[1]);
        MultiplyAdd(x[step % 2][1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
      LoadMatrices(b, stage + Stage::kQuery + operand + 32 * step);
      MultiplyAdd(o[step % 2][0], a[0], a[1], a[2], a[3], b[0], b[1]);
      MultiplyAdd(o[step % 2][1], a[0], a[1], a[2], a[3], b[2], b[3]);
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
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        o[0][tile][e] += o[1][tile][e];
        if constexpr (!kChannel) o[0][tile][e] *= p.scale * from_start[tile][e % 2];
      }
    }

    uint32_t u[4];  // U^T as A operand: (tile 0, rows r), (tile 0, r + 8), (tile 1, r), ...
    LoadMatricesTransposed(u, stage + Stage::kValue + value);
    uint32_t u_to_end[4];
    if constexpr (kDelta) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int tile = i / 2, e = i % 2 * 2;
        float product[2] = {x[0][tile][e] + x[1][tile][e], x[0][tile][e + 1] + x[1][tile][e + 1]};
        if constexpr (!kChannel) {
          product[0] *= from_start[tile][0];
          product[1] *= from_start[tile][1];
        }
        u[i] = Pack(Low(u[i]) - product[0], High(u[i]) - product[1]);
      }
      uint32_t b[4];
      LoadMatrices(b, stage + Stage::kTransform + triangle);
      float solved[2][4] = {};
      MultiplyAdd(solved[0], u[0], u[1], u[2], u[3], b[0], b[1]);
      MultiplyAdd(solved[1], u[0], u[1], u[2], u[3], b[2], b[3]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int tile = i / 2, e = i % 2 * 2;
        u[i] = Pack(solved[tile][e], solved[tile][e + 1]);
        if constexpr (!kChannel) {
          u_to_end[i] =
              Pack(solved[tile][e] * to_end[tile][0], solved[tile][e + 1] * to_end[tile][1]);
        }
      }
    } else if constexpr (!kChannel) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        u_to_end[i] = Pack(Low(u[i]) * to_end[i / 2][0], High(u[i]) * to_end[i / 2][1]);
      }
    }
    if constexpr (kChannel) {
#pragma unroll
      for (int i = 0; i < 4; ++i) u_to_end[i] = u[i];
    }

    // The state first: the next chunk waits for it.
    const float whole = kChannel ? 1.0f : decay[kChunk - 1];
#pragma unroll
    for (int step = 0; step < kTiles / 2; ++step) {
      uint32_t b[4];
      LoadMatricesTransposed(b, stage + Stage::kKeyEnd + key_end + 32 * step);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float(&s)[4] = state[2 * step + half];
        float2 factor = make_float2(whole, whole);
        if constexpr (kChannel) {
          factor = *reinterpret_cast<const float2*>(decay + 16 * step + 8 * half + 2 * t);
        }
        s[0] *= factor.x, s[1] *= factor.y, s[2] *= factor.x, s[3] *= factor.y;
        MultiplyAdd(s, u_to_end[0], u_to_end[1], u_to_end[2], u_to_end[3], b[2 * half],
                    b[2 * half + 1]);
      }
    }

    uint32_t b[4];
    LoadMatrices(b, stage + Stage::kAttention + triangle);
    MultiplyAdd(o[0][0], u[0], u[1], u[2], u[3], b[0], b[1]);
    MultiplyAdd(o[0][1], u[0], u[1], u[2], u[3], b[2], b[3]);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int token = sequence.begin + chunk * kChunk + 8 * tile + r;
      const uint32_t low = Transposed(Pack(o[0][tile][0], o[0][tile][1]));
      const uint32_t high = Transposed(Pack(o[0][tile][2], o[0][tile][3]));
      if (token >= sequence.end) continue;
      auto* const target = static_cast<__nv_bfloat16*>(p.out) +
                           static_cast<int64_t>(token) * p.out_stride + h * V + column + 2 * t;
      if (p.paired_rows) {
        *reinterpret_cast<uint32_t*>(target) = low;
        *reinterpret_cast<uint32_t*>(target + 8) = high;
      } else {
        target[0] = __float2bfloat16(Low(low));
        target[1] = __float2bfloat16(High(low));
        target[8] = __float2bfloat16(Low(high));
        target[9] = __float2bfloat16(High(high));
      }
    }
  }
  WaitForCopies<0>();

  if (p.bf16_state) {
    for_each_element([&](float& s, bool inside, int64_t i) {
      if (inside) static_cast<__nv_bfloat16*>(p.state)[i] = __float2bfloat16(s);
    });
  } else {
    for_each_element([&](float& s, bool inside, int64_t i) {
      if (inside) static_cast<float*>(p.state)[i] = s;
    });
  }
}

// Warps a block: more share one copy of the chunk's operands, fewer fill more SMs.
inline int ScanWarps(const RecurrenceParams& p, int max_warps) {
  const int slices = p.value_dim / 16;
  int warps = max_warps;
  while (warps > 1 &&
         (warps / 2 >= slices ||
          static_cast<int64_t>((slices + warps - 1) / warps) * p.heads * p.num_sequences < 120)) {
    warps /= 2;
  }
  return warps;
}

template <int kMaxK, bool kDelta, bool kChannel>
void LaunchChunkScanKernel(const RecurrenceParams& p, const ChunkRecord& record, TokenWindow window,
                           const void* workspace, cudaStream_t stream) {
  const int warps = ScanWarps(p, kMaxK > 128 ? 4 : 8);
  const int bytes = ScanStages<kMaxK>() * ScanStage<kMaxK, kDelta, kChannel>::Bytes(warps);
  const dim3 grid((p.value_dim / 16 + warps - 1) / warps, p.heads, p.num_sequences);
  const auto kernel = ChunkScanKernel<kMaxK, kDelta, kChannel>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<grid, 32 * warps, bytes, stream>>>(p, record, window,
                                              static_cast<const char*>(workspace));
  CheckLaunch("ChunkScanKernel");
}

template <bool kDelta>
void LaunchChunkScan(const RecurrenceParams& p, const ChunkRecord& record, TokenWindow window,
                     const void* workspace, cudaStream_t stream) {
  const auto launch = [&](auto max_k) {
    constexpr int kMaxK = decltype(max_k)::value;
    if (p.decay == Decay::kPerChannel) {
      LaunchChunkScanKernel<kMaxK, kDelta, true>(p, record, window, workspace, stream);
    } else {
      LaunchChunkScanKernel<kMaxK, kDelta, false>(p, record, window, workspace, stream);
    }
  };
  if (p.key_dim <= 64) {
    launch(std::integral_constant<int, 64>{});
  } else if (p.key_dim <= 128) {
    launch(std::integral_constant<int, 128>{});
  } else {
    launch(std::integral_constant<int, 256>{});
  }
}

}  // namespace fla::cuda
