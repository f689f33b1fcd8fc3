// Prefill as one kernel where decay is per channel: the work of chunk_prepare.cu and that of
// chunk_scan.cuh side by side, so that the records which the one makes for the other are read soon
// after they are written, and their places in memory are used again.
//
// Sequences go one after the other in tracks, as many as the GPU has room to scan side by side: a
// single one, or as many as there are sequences, or any number between.
//
// Grid: a block of twelve warps a multiprocessor; all run at once. The first blocks have a track, a
// head and 64 * kWidth columns of its states each: four of their warps scan the track's chunks, one
// brings what these read. All other warps make records: of the first chunk of all tracks and heads,
// then of the second, each warp the next one that none has taken. It waits until the place of its
// record is empty; the bringing warp waits until one is filled.
//
// No warp waits for ever: it waits for chunks before its own in that order, which others have
// taken, and what has been read is released before the next record is waited for that needs the
// place.
#include <algorithm>
#include <climits>

#include "kernels/cuda/chunk_channel.cuh"
#include "kernels/cuda/chunk_scan.cuh"
#include "kernels/cuda/record_ring.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {
namespace {

constexpr int kWarps = 12, kScanWarps = 4, kLoadingWarp = kScanWarps;
constexpr int kMaxK = 128;
constexpr int kSharedBytes = 98 << 10;  // of stages; the first cache has the rest

// Registers of a thread where slices are two tiles wide: 168 for each of the three warpgroups are
// dealt out again.
constexpr int kScanRegisters = 200, kOtherRegisters = 152;
static_assert(kScanRegisters + 2 * kOtherRegisters <= 3 * 168);

constexpr TokenWindow kAllTokens = {0, INT_MAX};

// Of a track: sequences [begin, end) and slots of chunks from first_slot on, num_slots, some of
// which no chunk has.
struct Track {
  int begin, end, first_slot, num_slots;
};
__device__ __forceinline__ Track FindTrack(const int* cu_seqlens, int num_sequences, int tracks,
                                           int track) {
  const int begin = num_sequences * track / tracks, end = num_sequences * (track + 1) / tracks;
  const int first_slot = cu_seqlens[begin] / kChunk + begin;
  return {begin, end, first_slot, cu_seqlens[end] / kChunk + end - first_slot};
}

// `cu_seqlens`: in shared memory.
template <bool kDelta, bool kProjected>
__device__ __forceinline__ void MakeRecords(const RecurrenceParams& p, const int* cu_seqlens,
                                            const RecurrenceProjections& from,
                                            const ChunkWorkspace& workspace, const RecordRing& ring,
                                            WarpScratch& scratch) {
  constexpr ChunkRecord layout = MakeChunkRecord(kMaxK, kDelta, /*channel=*/true);
  const int pairs = ring.tracks * p.heads, lane = threadIdx.x % 32;
  int next = lane == 0 ? Take(ring.taken) : 0;
  for (;;) {
    const int index = __shfl_sync(~0u, next, 0);
    const int i = index / pairs, pair = index % pairs, place = i % ring.places;
    if (i >= ring.max_slots) return;
    const int t = pair / p.heads;
    const Track track = FindTrack(cu_seqlens, p.num_sequences, ring.tracks, t);
    const int slot = track.first_slot + i;
    const int n = FindSequenceOfSlot(cu_seqlens, track.begin, track.end, kAllTokens, slot, kChunk);
    const SequenceInWindow sequence = FindSequence(cu_seqlens, n, kAllTokens);
    const int first_token = sequence.begin + (slot - sequence.first_slot) * kChunk;
    const int tokens = i < track.num_slots ? min(kChunk, sequence.end - first_token) : 0;
    if (tokens > 0) {
      if (lane < ring.readers) {
        const int* const emptied = ring.emptied + (pair * ring.readers + lane) * RecordRing::kApart;
        while (Look(emptied) <= i - ring.places) Pause();
      }
      __syncwarp();
      const ChunkWork work = {first_token, tokens, pair % p.heads, t * ring.places + place};
      PrepareChannel<kDelta, kProjected>(p, layout, from, work, workspace, scratch);
    }
    if (lane == 0) next = Take(ring.taken);
    __syncwarp();
    if (lane == 0 && tokens > 0) Publish(ring.filled + pair * ring.places + place, i + 1);
  }
}

// The part of a block that scans: a head's columns in all sequences of a track.
template <int kWidth, bool kDelta>
struct TrackScan {
  static constexpr ScanPass kPass = ScanPass::kFinal;
  using Stage = ScanStage<kMaxK, kDelta, /*kChannel=*/true>;

  const RecurrenceParams& p;
  const RecordRing& ring;
  int stages, block, pair;
  char* shared;

  __device__ __forceinline__ ScanWork WorkOf(int sequence) const {
    return FindScanWork<kPass, kDelta, kChunk>(
        p, kAllTokens, {}, 16 * kWidth * kScanWarps,
        make_uint3(block % ring.readers, pair % p.heads, sequence));
  }

  __device__ __forceinline__ void Scan(const Track& track) const {
    RingPosition position;
    for (int n = track.begin; n < track.end; ++n) {
      const ScanWork work = WorkOf(n);
      if (work.begin == work.end) continue;
      ScanChunks<kMaxK, 1, kWidth, kDelta, true, kPass>(p, {}, work, kScanWarps, stages, shared,
                                                        position);
    }
  }

  __device__ __forceinline__ void Load(const Track& track, const char* records) const {
    const int lane = threadIdx.x % 32;
    const uint32_t full = SharedAddress(shared), empty = full + 8 * kMaxScanStages;
    const int* const filled = ring.filled + pair * ring.places;
    int* const emptied = ring.emptied + block * RecordRing::kApart;
    const int64_t record_stride = static_cast<int64_t>(p.heads) * Stage::kRecord.bytes;
    const char* const first_record = records + pair / p.heads * ring.places * record_stride +
                                     pair % p.heads * Stage::kRecord.bytes;
    // What this lane found at the place of slot `looked_at` + lane; slots before num_filled have
    // their records. The look for the next slot is under way while this one's stage is waited for.
    int found = 0, looked_at = 0, num_filled = 0;
    const auto look = [&](int slot) {
      looked_at = slot;
      found = Look(filled + (slot + lane) % ring.places);
    };
    const auto await_record = [&](int slot) {
      for (;; look(slot)) {
        const unsigned missing = ~__ballot_sync(~0u, found == looked_at + lane + 1);
        num_filled = max(num_filled, looked_at + (missing == 0 ? 32 : __ffs(missing) - 1));
        if (num_filled > slot) return;
      }
    };
    // Stages from `oldest` to before `newest`, `held` of them, have been loaded and may be read;
    // lane s knows the slot of the chunk in stage s, all that of the oldest.
    RingPosition oldest, newest;
    int held = 0, slot_of_stage = 0, oldest_slot = 0, num_released = 0;
    for (int n = track.begin; n < track.end; ++n) {
      const ScanWork work = WorkOf(n);
      ChunkLoader<kMaxK, kDelta, true, kPass> loader(p, work, kWidth * kScanWarps);
      int slot = work.chunk_slot - track.first_slot, place = slot % ring.places;
      for (; loader.HasNext(); ++slot) {
        if (held == 0) oldest_slot = slot;
        while (held == stages || slot - oldest_slot >= ring.places) {
          Wait(empty + 8 * oldest.stage, oldest.parity);
          oldest.Advance(stages);
          --held;
          oldest_slot = held > 0 ? __shfl_sync(~0u, slot_of_stage, oldest.stage) : slot;
        }
        if (oldest_slot > num_released && lane == 0) Put(emptied, oldest_slot);
        num_released = oldest_slot;
        if (num_filled <= slot) await_record(slot);
        if (lane == newest.stage) slot_of_stage = slot;
        loader.LoadNext(first_record + place * record_stride,
                        full + kScanBarrierBytes + newest.stage * Stage::Bytes(kWidth * kScanWarps),
                        full + 8 * newest.stage);
        newest.Advance(stages);
        ++held;
        if (++place == ring.places) place = 0;
        if (num_filled <= slot + 1) look(slot + 1);
      }
    }
  }
};

template <int kWidth, bool kDelta, bool kProjected>
__global__ void __launch_bounds__(32 * kWarps, 1)
    ChannelPrefillKernel(const RecurrenceParams p, const RecurrenceProjections from,
                         const ChunkWorkspace workspace, const RecordRing ring, const int stages) {
  __shared__ WarpScratch scratch[kWarps];
  __shared__ int cu_seqlens[kMaxFusedSequences + 1];
  for (int n = threadIdx.x; n <= p.num_sequences; n += blockDim.x) {
    cu_seqlens[n] = p.cu_seqlens[n];
  }
  __syncthreads();
  char* const shared = DynamicShared();
  const int warp = threadIdx.x / 32, block = blockIdx.x, pair = block / ring.readers;
  const auto make_records = [&] {
    MakeRecords<kDelta, kProjected>(p, cu_seqlens, from, workspace, ring, scratch[warp]);
  };
  if (pair >= ring.tracks * p.heads) return make_records();

  const TrackScan<kWidth, kDelta> scan = {p, ring, stages, block, pair, shared};
  const Track track = FindTrack(cu_seqlens, p.num_sequences, ring.tracks, pair / p.heads);
  if (threadIdx.x == 0) {
    InitScanBarriers<1, kWidth>(scan.WorkOf(track.begin), kScanWarps, stages,
                                SharedAddress(shared));
  }
  __syncthreads();
  if (warp < kScanWarps) {
    if constexpr (kWidth > 1) GrowRegisters<kScanRegisters>();
    return scan.Scan(track);
  }
  if constexpr (kWidth > 1) ShrinkRegisters<kOtherRegisters>();
  if (warp != kLoadingWarp) return make_records();
  scan.Load(track, workspace.records);
}

template <int kWidth, bool kDelta, bool kProjected>
void Launch(const RecurrenceParams& p, const RecurrenceProjections& from,
            const ChunkWorkspace& workspace, const RecordRing& ring, cudaStream_t stream) {
  const int stage_bytes = ScanStage<kMaxK, kDelta, true>::Bytes(kWidth * kScanWarps);
  const int stages = std::min((kSharedBytes - kScanBarrierBytes) / stage_bytes, kMaxScanStages);
  const int bytes = kScanBarrierBytes + stages * stage_bytes;
  const auto kernel = ChannelPrefillKernel<kWidth, kDelta, kProjected>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  Check(LaunchCooperative(kernel, dim3(Multiprocessors()), dim3(32 * kWarps), bytes, stream, p,
                          from, workspace, ring, stages),
        "ChannelPrefillKernel");
}

template <int kWidth>
void LaunchWidth(const RecurrenceParams& p, const RecurrenceProjections& from, Update update,
                 const ChunkWorkspace& workspace, const RecordRing& ring, cudaStream_t stream) {
  const bool delta = update == Update::kDelta;
  auto launch = delta ? Launch<kWidth, true, false> : Launch<kWidth, false, false>;
  if (from.present()) launch = delta ? Launch<kWidth, true, true> : Launch<kWidth, false, true>;
  launch(p, from, workspace, ring, stream);
}

}  // namespace

void LaunchChannelPrefill(const RecurrenceParams& p, const RecurrenceProjections& from,
                          Update update, const ChunkWorkspace& workspace, const RecordRing& ring,
                          int slice_width, cudaStream_t stream) {
  (slice_width == 1 ? LaunchWidth<1> : LaunchWidth<2>)(p, from, update, workspace, ring, stream);
}

}  // namespace fla::cuda
