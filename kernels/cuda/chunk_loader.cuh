// The scan's loading warp: brings a sequence's chunks from memory into a ring of stages.
#pragma once

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/scan_segment.cuh"

namespace fla::cuda {

// Shared memory of one stage, bytes: the chunk's record, q and k if the record has none, V.
// Matrices are laid out as the record's.
template <int kMaxK, bool kDelta, bool kChannel>
struct ScanStage {
  static constexpr ChunkRecord kRecord = MakeChunkRecord(kMaxK, kDelta, kChannel);
  static constexpr int kMatrix = 2 * kChunk * kMaxK;
  static constexpr int kQuery = kChannel ? kRecord.query : kRecord.bytes;
  static constexpr int kKeyEnd = kChannel ? kRecord.key_end : kQuery + kMatrix;
  static constexpr int kKeyStart = kChannel ? kRecord.key_start : kKeyEnd;
  static constexpr int kValue = kChannel ? kRecord.bytes : kKeyEnd + kMatrix;
  // Of copies and of ldmatrix.
  static_assert(kRecord.bytes % 16 == 0 && kRecord.decay % 16 == 0 && kMatrix % 16 == 0);
  static constexpr int Bytes(int slices) { return kValue + slices * 2 * ChunkRecord::kColumns; }
};

// Barriers of the ring: `full` of every stage, then `empty`.
inline constexpr int kMaxScanStages = 6, kScanBarrierBytes = 128;
static_assert(2 * 8 * kMaxScanStages <= kScanBarrierBytes);

// Tiles of 16 columns of V in a stage, at most.
inline constexpr int kMaxStageTiles = 8;

// One warp. Lane l copies rows l % 8 and l % 8 + 8 of every fourth group of 8 columns, from l / 8
// on: 64 neighbouring bytes of a row are read together, and 128 of shared memory written.
template <int kMaxK, bool kDelta, bool kChannel, ScanPass kPass>
class ChunkLoader {
  using Stage = ScanStage<kMaxK, kDelta, kChannel>;
  static constexpr int kColumns = ChunkRecord::kColumns;

  // This lane's rows of a matrix whose rows are `stride` elements apart.
  struct Rows {
    const __nv_bfloat16* first;
    int64_t stride;

    __device__ __forceinline__ void Advance() { first += kChunk * stride; }
  };

 public:
  // Of V, `slices` tiles of 16 columns.
  __device__ __forceinline__ ChunkLoader(const RecurrenceParams& p, const ScanWork& work,
                                         int slices)
      : tokens_left_(work.end - work.begin), has_values_(!work.is_map) {
    const int lane = threadIdx.x % 32, h = work.head;
    const int64_t token = work.begin + lane % 8;
    const auto rows = [&](const void* x, int64_t stride, int first_column) {
      return Rows{
          static_cast<const __nv_bfloat16*>(x) + token * stride + first_column + lane / 8 * 8,
          stride};
    };
    q_ = rows(p.q, p.q_stride, h / p.q_group * p.key_dim);
    k_ = rows(p.k, p.k_stride, h / p.k_group * p.key_dim);
    v_ = rows(p.v, p.v_stride, h / p.v_group * p.value_dim + work.column);
    key_groups_ = p.key_dim / 8 - lane / 8;
    value_groups_ = min(2 * slices, (work.num_columns - work.column) / 8) - lane / 8;
    safe_ = static_cast<const __nv_bfloat16*>(p.q);
  }

  __device__ __forceinline__ bool HasNext() const { return tokens_left_ > 0; }

  // Begins to load the next chunk, whose record is given, to a stage; its barrier `full` tells when
  // it is there.
  __device__ __forceinline__ void LoadNext(const char* record, uint32_t stage, uint32_t full) {
    const int lane = threadIdx.x % 32, tokens_left = tokens_left_ - lane % 8;
    const uint32_t row = lane / 8 * kColumns + lane % 8 * 16;
    constexpr ChunkRecord kRecord = Stage::kRecord;
    if constexpr (kPass == ScanPass::kFinal) {
      CopyRecord<0, kRecord.bytes>(record, stage);
    } else {
      CopyRecord<kRecord.transform, kRecord.query>(record, stage);
      CopyRecord<kRecord.key_end, kRecord.bytes>(record, stage);
    }
    if constexpr (!kChannel) {
      if constexpr (kPass == ScanPass::kFinal) {
        CopyRows<kMaxK / 8>(stage + Stage::kQuery + row, q_, key_groups_, tokens_left);
      }
      CopyRows<kMaxK / 8>(stage + Stage::kKeyEnd + row, k_, key_groups_, tokens_left);
      q_.Advance();
      k_.Advance();
    }
    CopyRows<2 * kMaxStageTiles>(stage + Stage::kValue + row, v_, value_groups_,
                                 has_values_ ? tokens_left : 0);
    v_.Advance();
    ArriveAfterCopies(full);
    tokens_left_ -= kChunk;
  }

 private:
  // Bytes [kBegin, kEnd) of the record.
  template <int kBegin, int kEnd>
  static __device__ __forceinline__ void CopyRecord(const char* record, uint32_t stage) {
    const int first = 16 * (threadIdx.x % 32);
#pragma unroll
    for (int i = kBegin; i < kEnd; i += 512) {
      if (i + first < kEnd) CopyAsync(stage + first + i, record + first + i, true);
    }
  }

  template <int kMaxGroups>
  __device__ __forceinline__ void CopyRows(uint32_t target, const Rows& rows, int groups,
                                           int tokens_left) {
    const bool valid[2] = {tokens_left > 0, tokens_left > 8};
    const __nv_bfloat16* const source[2] = {valid[0] ? rows.first : safe_,
                                            valid[1] ? rows.first + 8 * rows.stride : safe_};
#pragma unroll
    for (int i = 0; i < kMaxGroups; i += 4) {
      if (i < groups) {
        CopyAsync(target + i * kColumns, source[0] + 8 * i, valid[0]);
        CopyAsync(target + i * kColumns + 128, source[1] + 8 * i, valid[1]);
      }
    }
  }

  int tokens_left_;                // from the next chunk on
  const bool has_values_;          // M has none: they are 0
  int key_groups_, value_groups_;  // of 8 columns, from this lane's first one on
  Rows q_, k_, v_;
  const __nv_bfloat16* safe_;  // an address for copies of nothing
};

}  // namespace fla::cuda
