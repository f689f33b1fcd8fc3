// The wide scan's loading warpgroup: brings a sequence's chunks into a ring of stages.
#pragma once

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/ring_position.cuh"
#include "kernels/cuda/scan_segment.cuh"
#include "kernels/cuda/wide_record.cuh"
#include "kernels/cuda/wide_triangle.cuh"

namespace fla::cuda {

inline constexpr int kWideSlice = 64, kMaxWideStages = 4, kWarpgroup = 128;

// In front of the stages: barriers, then the decays of each. Of barriers three a stage: it is full;
// it is empty; its copies have landed, where that is not all that a full one needs.
template <typename Stage>
constexpr int WideHeaderBytes() {
  return (128 + kMaxWideStages * Stage::kDecayBytes + 1023) / 1024 * 1024;
}
inline constexpr int kBarriersOfAKind = 8 * kMaxWideStages;  // bytes
static_assert(3 * kBarriersOfAKind <= 128);

// What the copy engine is told of q, k and v: panels of 64 tokens of a head.
struct WideMaps {
  TileMap q, k, v;
};

// Loading warpgroups of a block. Two take turns where they also have to make P.
template <typename Stage, ScanPass kPass>
constexpr int WideLoaders(int slices) {
  return Stage::kMakesAttention && kPass == ScanPass::kFinal && slices == 1 ? 2 : 1;
}

// A loading warpgroup. One of its threads has the copy engine bring whole chunks. The last tokens
// of a sequence that are not a whole chunk all of them copy, 16 bytes at a time: there must be
// zeros behind them, and the engine would bring the next sequence. For the additive rule the
// warpgroup also makes P and the decays, a chunk behind its copies. The local pass needs neither P
// nor queries.
template <int kPanels, int kSlices, bool kDelta, ScanPass kPass>
class WideLoader {
  using Stage = WideStage<kPanels, kSlices, kDelta>;
  static constexpr WideRecord kRecord = Stage::kRecord;
  static constexpr int kLoaders = WideLoaders<Stage, kPass>(kSlices);
  static constexpr bool kOutputs = kPass == ScanPass::kFinal;
  // What a chunk needs of its record: P and T, and decays.
  static constexpr int kAttentionBytes = kDelta && kOutputs ? kTriangleBytes : 0,
                       kTransformBytes = kDelta ? kTriangleBytes : 0;
  static constexpr int kDecayBytes = kRecord.bytes - kRecord.decay;
  static constexpr int kPanelsOfAChunk = kSlices + (kOutputs ? 2 : 1) * kPanels;
  static constexpr int kCopiedBytes =
      kAttentionBytes + kTransformBytes + kDecayBytes + kPanelsOfAChunk * kPanelBytes;

 public:
  __device__ __forceinline__ WideLoader(const RecurrenceParams& p, const WideMaps& maps,
                                        const ChunkWorkspace& workspace, const ScanWork& work)
      : thread_(threadIdx.x % kWarpgroup),
        loader_(kLoaders == 1 ? 0 : threadIdx.x / kWarpgroup - kSlices),
        params_(p),
        maps_(maps),
        work_(work),
        record_stride_(static_cast<int64_t>(p.heads) * kRecord.bytes * kLoaders),
        record_(workspace.records +
                (static_cast<int64_t>(work.chunk_slot + loader_) * p.heads + work.head) *
                    kRecord.bytes) {}

  // Loads this loader's chunks, each as soon as its stage is empty. `shared` begins with the
  // barriers.
  __device__ __forceinline__ void Run(int stages, char* shared) {
    const uint32_t full = SharedAddress(shared), empty = full + kBarriersOfAKind;
    const uint32_t landed = Stage::kMakesAttention ? empty + kBarriersOfAKind : full;
    const int tokens = work_.end - work_.begin;
    RingPosition position, before;
    float log_decay[2] = {}, log_decay_before[2] = {};
    if (loader_ > 0) position.Advance(stages);
    const int begin = loader_ * kWideChunk;
    for (int first = begin; first < tokens; first += kLoaders * kWideChunk) {
      if constexpr (Stage::kMakesAttention) {
        LoadLogDecay(params_, work_.begin + first, tokens - first, work_.head, log_decay);
      }
      // Of two loaders each finishes its last stage before it waits for another one: otherwise the
      // scan would wait for P whenever making it takes longer than a chunk.
      const bool finish_first = kLoaders == 2 && stages > 2;
      if (finish_first && first > begin) Finish(shared, before, log_decay_before);
      Wait(empty + 8 * position.stage, position.parity ^ 1);
      const Target target = {full + WideHeaderBytes<Stage>() + position.stage * Stage::kBytes,
                             full + 128 + position.stage * Stage::kDecayBytes,
                             landed + 8 * position.stage};
      if (first + kWideChunk <= tokens) {
        if (thread_ == 0) CopyChunk(target, work_.begin + first);
      } else {
        CopyLastChunk(target, first);
      }
      record_ += record_stride_;
      if constexpr (Stage::kMakesAttention) SumLogDecay(log_decay);
      // With two stages the next one empties only after this one is full.
      if (stages == 2) {
        Finish(shared, position, log_decay);
      } else if (!finish_first && first > begin) {
        Finish(shared, before, log_decay_before);
      }
      before = position;
      log_decay_before[0] = log_decay[0];
      log_decay_before[1] = log_decay[1];
      for (int i = 0; i < kLoaders; ++i) position.Advance(stages);
    }
    if (stages > 2 && begin < tokens) Finish(shared, before, log_decay_before);
  }

 private:
  // Addresses of a stage, its decays and the barrier of its copies.
  struct Target {
    uint32_t stage, decays, landed;
  };

  // Makes what else a stage needs whose copies have landed, and says that it is full.
  __device__ __forceinline__ void Finish(char* shared, const RingPosition& position,
                                         const float (&log_decay)[2]) const {
    if constexpr (Stage::kMakesAttention) {
      const uint32_t full = SharedAddress(shared) + 8 * position.stage;
      if (thread_ < 32) {
        StoreDecays(log_decay,
                    reinterpret_cast<float*>(shared + 128 + position.stage * Stage::kDecayBytes));
      }
      Wait(full + 2 * kBarriersOfAKind, position.parity);
      if constexpr (kOutputs) {
        char* const stage = shared + WideHeaderBytes<Stage>() + position.stage * Stage::kBytes;
        float qk[8][4] = {};
        const uint32_t address = SharedAddress(stage);
        MultiplyPanels<kPanels>(address + Stage::kQuery, address + Stage::kKey, qk);
        StoreAttention(qk, log_decay, params_.scale, stage + Stage::kAttention);
        PublishToTensorCores();
      }
      Arrive(full);
    }
  }

  // The first column of v: of M's columns, which have none, one behind the last.
  __device__ __forceinline__ int ValueColumn() const {
    return work_.is_map ? params_.value_dim : work_.column;
  }

  // A whole chunk, from token `token` on.
  __device__ __forceinline__ void CopyChunk(const Target& to, int token) const {
    const RecurrenceParams& p = params_;
    const int h = work_.head;
    ArriveExpecting(to.landed, kCopiedBytes);
    const auto copy = [&](int offset, const TileMap& map, int head, int column, int panels) {
#pragma unroll
      for (int panel = 0; panel < panels; ++panel) {
        CopyHeadPanelToShared(to.stage + offset + panel * kPanelBytes, map, head, token,
                              column + 64 * panel, to.landed);
      }
    };
    copy(Stage::kKey, maps_.k, h / p.k_group, 0, kPanels);
    copy(Stage::kValue, maps_.v, h / p.v_group, ValueColumn(), kSlices);
    if constexpr (kOutputs) copy(Stage::kQuery, maps_.q, h / p.q_group, 0, kPanels);
    AwaitPreviousKernel();  // for its records
    if constexpr (kDecayBytes > 0) {
      CopyToShared(to.decays, record_ + kRecord.decay, kDecayBytes, to.landed);
    }
    if constexpr (kTransformBytes > 0) {
      CopyToShared(to.stage + Stage::kTransform, record_ + kRecord.transform, kTransformBytes,
                   to.landed);
    }
    if constexpr (kAttentionBytes > 0) {
      CopyToShared(to.stage + Stage::kAttention, record_ + kRecord.attention, kAttentionBytes,
                   to.landed);
    }
  }

  // The sequence's last tokens, from its token `first` on, with zeros behind them.
  __device__ __forceinline__ void CopyLastChunk(const Target& to, int first) const {
    const RecurrenceParams& p = params_;
    const int h = work_.head;
    AwaitPreviousKernel();
    CopyLinear<kAttentionBytes>(to.stage + Stage::kAttention, record_ + kRecord.attention);
    CopyLinear<kTransformBytes>(to.stage + Stage::kTransform, record_ + kRecord.transform);
    CopyLinear<kDecayBytes>(to.decays, record_ + kRecord.decay);
    if constexpr (kOutputs) {
      CopyRows<kPanels>(to.stage + Stage::kQuery, p.q, p.q_stride, first, h / p.q_group * p.key_dim,
                        p.key_dim);
    }
    CopyRows<kPanels>(to.stage + Stage::kKey, p.k, p.k_stride, first, h / p.k_group * p.key_dim,
                      p.key_dim);
    CopyRows<kSlices>(to.stage + Stage::kValue, p.v, p.v_stride, first,
                      h / p.v_group * p.value_dim + work_.column, p.value_dim - ValueColumn());
    CommitCopies();
    WaitForCopies<0>();
    PublishToTensorCores();
    SyncThreads<kWarpgroup>(1 + loader_);
    if (thread_ == 0) Arrive(to.landed);
  }

  template <int kBytes>
  __device__ __forceinline__ void CopyLinear(uint32_t target, const char* source) const {
#pragma unroll 1
    for (int offset = 16 * thread_; offset < kBytes; offset += 16 * kWarpgroup) {
      CopyAsync(target + offset, source + offset, true);
    }
  }

  // Rows from `first` on, as kWidth panels; what is behind the sequence or the head is 0.
  template <int kWidth>
  __device__ __forceinline__ void CopyRows(uint32_t target, const void* data, int64_t stride,
                                           int first, int first_column, int columns) const {
    constexpr int kPieces = 8 * kWidth, kRows = kWarpgroup / kPieces;
    const int piece = thread_ % kPieces, tokens = work_.end - work_.begin - first;
    const auto* const x = static_cast<const __nv_bfloat16*>(data);
    const __nv_bfloat16* const column =
        x + static_cast<int64_t>(work_.begin + first) * stride + first_column + 8 * piece;
#pragma unroll 1
    for (int row = thread_ / kPieces; row < kWideChunk; row += kRows) {
      const bool valid = 8 * piece < columns && row < tokens;
      CopyAsync(target + piece / 8 * kPanelBytes + PanelOffset(row, piece % 8),
                valid ? column + row * stride : x, valid);
    }
  }

  const int thread_, loader_;
  const RecurrenceParams& params_;
  const WideMaps& maps_;
  const ScanWork& work_;
  const int64_t record_stride_;
  const char* record_;
};

}  // namespace fla::cuda
