// The wide scan's loading warpgroup: brings a sequence's chunks into a ring of stages.
#pragma once

#include "kernels/cuda/scan_ring.cuh"
#include "kernels/cuda/scan_segment.cuh"
#include "kernels/cuda/wide_record.cuh"
#include "kernels/cuda/wide_triangle.cuh"

namespace fla::cuda {

inline constexpr int kWideSlice = 64, kMaxWideStages = 4, kWarpgroup = 128;

// In front of the stages: barriers, then the decays of each.
template <typename Stage>
constexpr int WideHeaderBytes() {
  return (128 + kMaxWideStages * Stage::kDecayBytes + 1023) / 1024 * 1024;
}
static_assert(2 * 8 * kMaxWideStages <= 128);

// Loading warpgroups of a block. Two take turns where they also have to make P.
template <typename Stage, ScanPass kPass>
constexpr int WideLoaders(int slices) {
  return Stage::kMakesAttention && kPass == ScanPass::kFinal && slices == 1 ? 2 : 1;
}

// A loading warpgroup. Neighbouring threads copy neighbouring pieces of 16 bytes. For a scalar
// decay and the additive rule it also makes P and the decays, a chunk behind its copies. The local
// pass needs neither P nor queries.
template <int kPanels, int kSlices, bool kDelta, bool kChannel, ScanPass kPass>
class WideLoader {
  using Stage = WideStage<kPanels, kDelta, kChannel>;
  static constexpr WideRecord kRecord = Stage::kRecord;
  static constexpr int kLoaders = WideLoaders<Stage, kPass>(kSlices);
  static constexpr bool kOutputs = kPass == ScanPass::kFinal;

 public:
  __device__ __forceinline__ WideLoader(const RecurrenceParams& p, const ChunkWorkspace& workspace,
                                        const ScanWork& work)
      : thread_(threadIdx.x % kWarpgroup),
        loader_(kLoaders == 1 ? 0 : threadIdx.x / kWarpgroup - kSlices),
        tokens_(work.end - work.begin),
        key_dim_(p.key_dim),
        head_(work.head),
        params_(p),
        first_token_(work.begin),
        record_stride_(static_cast<int64_t>(p.heads) * kRecord.bytes * kLoaders) {
    const int h = work.head;
    record_ = workspace.records +
              (static_cast<int64_t>(work.chunk_slot + loader_) * p.heads + h) * kRecord.bytes;
    const int64_t first_token = work.begin + loader_ * kWideChunk;
    const auto rows = [&](const void* x, int64_t stride, int first_column) {
      return Rows{static_cast<const __nv_bfloat16*>(x) + first_token * stride + first_column,
                  stride};
    };
    q_ = rows(p.q, p.q_stride, h / p.q_group * p.key_dim);
    k_ = rows(p.k, p.k_stride, h / p.k_group * p.key_dim);
    v_ = rows(p.v, p.v_stride, h / p.v_group * p.value_dim + work.column);
    value_columns_ = work.is_map ? 0 : work.num_columns - work.column;
  }

  // Loads this loader's chunks, each as soon as its stage is empty. `shared` begins with the
  // barriers.
  __device__ __forceinline__ void Run(int stages, char* shared) {
    const uint32_t full = SharedAddress(shared), empty = full + 8 * kMaxWideStages;
    RingPosition position, before;
    float log_decay[2] = {}, log_decay_before[2] = {};
    if (loader_ > 0) position.Advance(stages);
    const int begin = loader_ * kWideChunk;
    for (int first = begin; first < tokens_; first += kLoaders * kWideChunk) {
      if constexpr (Stage::kMakesAttention) {
        LoadLogDecay(params_, first_token_ + first, tokens_ - first, head_, log_decay);
      }
      // Of two loaders each finishes its last stage before it waits for another one: otherwise the
      // scan would wait for P whenever making it takes longer than a chunk.
      const bool finish_first = kLoaders == 2 && stages > 2;
      if (finish_first && first > begin) {
        WaitForCopies<0>();
        Finish(shared, before.stage, log_decay_before);
      }
      Wait(empty + 8 * position.stage, position.parity ^ 1);
      const uint32_t stage =
          full + WideHeaderBytes<Stage>() + position.stage * Stage::Bytes(kSlices);
      if constexpr (kOutputs || kChannel) {
        CopyLinear<kRecord.matrices>(stage, record_);
      } else if constexpr (kDelta) {
        CopyLinear<kPanelBytes>(stage + Stage::kTransform, record_ + Stage::kTransform);
      }
      CopyLinear<kRecord.bytes - kRecord.decay>(full + 128 + position.stage * Stage::kDecayBytes,
                                                record_ + kRecord.decay);
      record_ += record_stride_;
      if constexpr (!kChannel) {
        if constexpr (kOutputs) {
          CopyRows<kPanels>(stage + Stage::kQuery, q_, tokens_ - first, key_dim_);
        }
        CopyRows<kPanels>(stage + Stage::kKeyEnd, k_, tokens_ - first, key_dim_);
      }
      CopyRows<kSlices>(stage + Stage::kValue, v_, tokens_ - first, value_columns_);
      CommitCopies();
      if constexpr (Stage::kMakesAttention) SumLogDecay(log_decay);
      // With two stages the next one empties only after this one is full.
      if (stages == 2) {
        WaitForCopies<0>();
        Finish(shared, position.stage, log_decay);
      } else if (!finish_first && first > begin) {
        WaitForCopies<1>();
        Finish(shared, before.stage, log_decay_before);
      }
      before = position;
      log_decay_before[0] = log_decay[0];
      log_decay_before[1] = log_decay[1];
      for (int i = 0; i < kLoaders; ++i) position.Advance(stages);
    }
    if (stages == 2 || begin >= tokens_) return;
    WaitForCopies<0>();
    Finish(shared, before.stage, log_decay_before);
  }

 private:
  struct Rows {
    const __nv_bfloat16* first;
    int64_t stride;
  };

  // Makes what else a stage needs whose copies have landed, and says that it is full.
  __device__ __forceinline__ void Finish(char* shared, int number,
                                         const float (&log_decay)[2]) const {
    PublishToTensorCores();
    if constexpr (Stage::kMakesAttention) {
      SyncThreads<kWarpgroup>(1 + loader_);
      if (thread_ < 32) {
        StoreDecays(log_decay,
                    reinterpret_cast<float*>(shared + 128 + number * Stage::kDecayBytes));
      }
      if constexpr (kOutputs) {
        char* const stage = shared + WideHeaderBytes<Stage>() + number * Stage::Bytes(kSlices);
        float qk[8][4] = {}, none[8][4] = {};
        const uint32_t address = SharedAddress(stage);
        MultiplyKeys<kPanels, false>(address + Stage::kQuery, address + Stage::kKeyEnd, qk, none);
        StoreAttention(qk, log_decay, params_.scale, stage + Stage::kAttention);
        PublishToTensorCores();
      }
    }
    Arrive(SharedAddress(shared) + 8 * number);
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
    rows.first += kLoaders * kWideChunk * rows.stride;
  }

  const int thread_, loader_, tokens_, key_dim_, head_;
  const RecurrenceParams& params_;
  const int first_token_;
  const int64_t record_stride_;
  const char* record_;
  Rows q_, k_, v_;
  int value_columns_;
};

}  // namespace fla::cuda
