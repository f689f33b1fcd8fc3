// Chunk attention, first kernel: the outputs, S, and of kLinear the open chunk's S. All products
// are f32, on the ordinary units.
//
// A block walks one head of one sequence in tiles of 32 tokens and owns 32 columns of V, for which
// it has S (and the open S) in shared memory. A warp has four rows of a tile: its lanes are the
// tile's keys where scores are made, and the block's columns where they are used.
#include <stdexcept>
#include <string>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_attention_elements.cuh"
#include "kernels/cuda/chunk_attention_launch.h"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {
namespace {

constexpr int kColumns = 32;  // of V
constexpr int kRows = 32;     // tokens of a tile
constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kWarpRows = kRows / kWarps;

__host__ __device__ constexpr int PaddedKeys(int key_dim) { return (key_dim + 3) / 4 * 4; }
// Distance of rows of q and k: 16 bytes a lane, and no two of eight lanes in the same banks.
__host__ __device__ constexpr int KeyStride(int key_dim) { return PaddedKeys(key_dim) + 4; }

// Shared memory, in floats; keys are padded with zeros.
struct Tiles {
  float *q, *k;         // [kRows, KeyStride]
  float* v;             // [kRows, kColumns]
  float *state, *open;  // [PaddedKeys, kColumns]; open of kLinear alone
  float *z, *open_z;    // [PaddedKeys]
};

size_t SharedBytes(const ChunkAttentionSpec& spec) {
  const int states = spec.rule == ChunkRule::kLinear ? 2 : 1;
  return sizeof(float) *
         (2 * kRows * KeyStride(spec.key_dim) + kRows * kColumns +
          states * PaddedKeys(spec.key_dim) * kColumns + 2 * PaddedKeys(spec.key_dim));
}

__device__ Tiles TakeTiles(const ChunkAttentionSpec& spec) {
  const int keys = PaddedKeys(spec.key_dim);
  Tiles tiles;
  tiles.q = reinterpret_cast<float*>(DynamicShared());
  tiles.k = tiles.q + kRows * KeyStride(spec.key_dim);
  tiles.v = tiles.k + kRows * KeyStride(spec.key_dim);
  tiles.z = tiles.v + kRows * kColumns;
  tiles.open_z = tiles.z + keys;
  tiles.state = tiles.open_z + keys;
  tiles.open = tiles.state + keys * kColumns;
  return tiles;
}

// Row `row` of a tile from `count` elements, zeros past them; by one warp.
template <typename T>
__device__ void LoadRow(const T* from, int count, int padded, float* to) {
  for (int i = threadIdx.x % 32; i < padded; i += 32) to[i] = i < count ? ToFloat(from[i]) : 0.0f;
}

// A tile of a call's tokens [token, token + rows); rows past them are zeros.
template <typename T>
__device__ void LoadKeys(const Matrix& matrix, int64_t token, int rows, int64_t column, int key_dim,
                         float* to) {
  for (int r = threadIdx.x / 32; r < kRows; r += kWarps) {
    LoadRow(RowAt<const T>(matrix, token + (r < rows ? r : 0), column), r < rows ? key_dim : 0,
            PaddedKeys(key_dim), to + r * KeyStride(key_dim));
  }
}

// The first column of V that this block owns.
__device__ __forceinline__ int FirstColumn() { return static_cast<int>(blockIdx.x) * kColumns; }

template <typename T>
__device__ void LoadValues(const ChunkAttentionArgs& args, int64_t token, int rows, int h,
                           float* to) {
  const int V = args.spec.value_dim, count = min(kColumns, V - FirstColumn());
  for (int r = threadIdx.x / 32; r < kRows; r += kWarps) {
    LoadRow(RowAt<const T>(args.v, token + (r < rows ? r : 0), h * V + FirstColumn()),
            r < rows ? count : 0, kColumns, to + r * kColumns);
  }
}

// Columns of a [K, V] state.
template <typename S>
__device__ void LoadState(const S* from, const ChunkAttentionSpec& spec, float* to) {
  const int V = spec.value_dim, count = min(kColumns, V - FirstColumn());
  for (int i = threadIdx.x / 32; i < PaddedKeys(spec.key_dim); i += kWarps) {
    const int row = i < spec.key_dim ? i : 0;
    LoadRow(from + static_cast<int64_t>(row) * V + FirstColumn(), i < spec.key_dim ? count : 0,
            kColumns, to + i * kColumns);
  }
}

template <typename S>
__device__ void StoreState(const float* from, const ChunkAttentionSpec& spec, S* to) {
  const int V = spec.value_dim, column = FirstColumn() + threadIdx.x % 32;
  if (column >= V) return;
  for (int i = threadIdx.x / 32; i < spec.key_dim; i += kWarps) {
    to[static_cast<int64_t>(i) * V + column] = FromFloat<S>(from[i * kColumns + threadIdx.x % 32]);
  }
}

// The four rows of the calling warp.
__device__ __forceinline__ const float* WarpRows(const float* q, int key_dim) {
  return q + threadIdx.x / 32 * kWarpRows * KeyStride(key_dim);
}

// sums[j] += row j of the warp times column `lane` of a state.
__device__ void ReadState(const float* q, const float* state, int key_dim,
                          float (&sums)[kWarpRows]) {
  const float* rows = WarpRows(q, key_dim);
  const float* column = state + threadIdx.x % 32;
  for (int i = 0; i < PaddedKeys(key_dim); i += 4) {
    float s[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) s[e] = column[(i + e) * kColumns];
#pragma unroll
    for (int j = 0; j < kWarpRows; ++j) {
      const float4 a = *reinterpret_cast<const float4*>(rows + j * KeyStride(key_dim) + i);
      sums[j] += a.x * s[0] + a.y * s[1] + a.z * s[2] + a.w * s[3];
    }
  }
}

// Row j of the warp times z, in every lane.
__device__ float ReadNormalizer(const float* q, const float* z, int key_dim, int j) {
  const float* row = WarpRows(q, key_dim) + j * KeyStride(key_dim);
  float sum = 0.0f;
  for (int i = threadIdx.x % 32; i < key_dim; i += 32) sum += row[i] * z[i];
  return WarpSum(sum);
}

// scores[j] = row j of the warp times key `lane`.
__device__ void Score(const float* q, const float* k, int key_dim, float (&scores)[kWarpRows]) {
  const float* rows = WarpRows(q, key_dim);
  const float* key = k + threadIdx.x % 32 * KeyStride(key_dim);
#pragma unroll
  for (int j = 0; j < kWarpRows; ++j) scores[j] = 0.0f;
  for (int i = 0; i < PaddedKeys(key_dim); i += 4) {
    const float4 b = *reinterpret_cast<const float4*>(key + i);
#pragma unroll
    for (int j = 0; j < kWarpRows; ++j) {
      const float4 a = *reinterpret_cast<const float4*>(rows + j * KeyStride(key_dim) + i);
      scores[j] += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
    }
  }
}

// sums[j] += scores of row j, a lane each, times column `lane` of the values.
__device__ void Weigh(const float (&scores)[kWarpRows], const float* v, float (&sums)[kWarpRows]) {
#pragma unroll 8
  for (int s = 0; s < kRows; ++s) {
    const float value = v[s * kColumns + threadIdx.x % 32];
#pragma unroll
    for (int j = 0; j < kWarpRows; ++j) {
      sums[j] += __shfl_sync(0xffffffffu, scores[j], s) * value;
    }
  }
}

// state += k^T v and z += the sum of keys, of a tile.
__device__ void AddTile(const float* k, const float* v, int key_dim, float* state, float* z) {
  const int lane = threadIdx.x % 32;
  float values[kRows];
#pragma unroll
  for (int s = 0; s < kRows; ++s) values[s] = v[s * kColumns + lane];
  for (int i = threadIdx.x / 32 * 4; i < PaddedKeys(key_dim); i += kWarps * 4) {
    float sums[4] = {};
#pragma unroll
    for (int s = 0; s < kRows; ++s) {
      const float4 key = *reinterpret_cast<const float4*>(k + s * KeyStride(key_dim) + i);
      sums[0] += key.x * values[s], sums[1] += key.y * values[s];
      sums[2] += key.z * values[s], sums[3] += key.w * values[s];
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) state[(i + e) * kColumns + lane] += sums[e];
  }
  for (int i = threadIdx.x; i < PaddedKeys(key_dim); i += kThreads) {
    float sum = 0.0f;
    for (int s = 0; s < kRows; ++s) sum += k[s * KeyStride(key_dim) + i];
    z[i] += sum;
  }
}

// What the rows of a tile see of their own chunk, before the division and what to divide by.
struct Inside {
  float sums[kWarpRows];
  float divisors[kWarpRows];
};

// kLinear: the open state, and the keys of the tile itself.
__device__ Inside AttendLinear(const Tiles& tiles, const ChunkAttentionSpec& spec) {
  const int K = spec.key_dim, row = threadIdx.x / 32 * kWarpRows, lane = threadIdx.x % 32;
  Inside inside = {};
  float scores[kWarpRows];
  Score(tiles.q, tiles.k, K, scores);
#pragma unroll
  for (int j = 0; j < kWarpRows; ++j) {
    if (lane > row + j) scores[j] = 0.0f;
    inside.divisors[j] =
        WarpSum(scores[j]) + ReadNormalizer(tiles.q, tiles.open_z, K, j) + spec.eps;
  }
  ReadState(tiles.q, tiles.open, K, inside.sums);
  Weigh(scores, tiles.v, inside.sums);
  return inside;
}

// Loads keys and values [first, first + kRows) of the chunk that holds token `token` at place
// `place`: from the stored open chunk where they came before this call. Rows past the call's are
// zeros.
template <typename T>
__device__ void LoadChunkTile(const ChunkAttentionArgs& args, const ChunkSequence& sequence,
                              int64_t chunk_begin, int first, int h, const Tiles& tiles) {
  const ChunkAttentionSpec& spec = args.spec;
  const int K = spec.key_dim, V = spec.value_dim, count = min(kColumns, V - FirstColumn());
  const float* keys = args.open + sequence.head * OpenChunkFloats(spec);
  const float* values = keys + static_cast<int64_t>(spec.chunk) * K;
  for (int r = threadIdx.x / 32; r < kRows; r += kWarps) {
    const int place = first + r;
    const int64_t token = chunk_begin + place;
    float* const k_row = tiles.k + r * KeyStride(K);
    float* const v_row = tiles.v + r * kColumns;
    if (place >= spec.chunk || token >= sequence.end) {
      LoadRow(keys, 0, PaddedKeys(K), k_row);
      LoadRow(values, 0, kColumns, v_row);
    } else if (token < sequence.begin) {
      LoadRow(keys + static_cast<int64_t>(place) * K, K, PaddedKeys(K), k_row);
      LoadRow(values + static_cast<int64_t>(place) * V + FirstColumn(), count, kColumns, v_row);
    } else {
      LoadRow(RowAt<const T>(args.k, token, h * K), K, PaddedKeys(K), k_row);
      LoadRow(RowAt<const T>(args.v, token, h * V + FirstColumn()), count, kColumns, v_row);
    }
  }
}

// kSoftmax: all keys of the chunk up to the row's own, which is at `place` for row 0 of the tile.
template <typename T>
__device__ Inside AttendSoftmax(const ChunkAttentionArgs& args, const ChunkSequence& sequence,
                                int64_t chunk_begin, int place, int rows, int h,
                                const Tiles& tiles) {
  const int row = threadIdx.x / 32 * kWarpRows, lane = threadIdx.x % 32;
  Inside inside = {};
  float largest[kWarpRows];
#pragma unroll
  for (int j = 0; j < kWarpRows; ++j) largest[j] = -INFINITY;
  for (int first = 0; first < place + rows; first += kRows) {
    __syncthreads();  // the tile before has been read
    LoadChunkTile<T>(args, sequence, chunk_begin, first, h, tiles);
    __syncthreads();
    float scores[kWarpRows];
    Score(tiles.q, tiles.k, args.spec.key_dim, scores);
#pragma unroll
    for (int j = 0; j < kWarpRows; ++j) {
      const bool seen = first + lane <= place + row + j;
      const float score = seen ? args.spec.scale * scores[j] : -INFINITY;
      const float maximum = fmaxf(largest[j], WarpMax(score));
      const float before = expf(largest[j] - maximum);
      scores[j] = seen ? expf(score - maximum) : 0.0f;
      inside.divisors[j] = inside.divisors[j] * before + WarpSum(scores[j]);
      inside.sums[j] *= before;
      largest[j] = maximum;
    }
    Weigh(scores, tiles.v, inside.sums);
  }
  return inside;
}

// grid (ceil(V / kColumns), H, N), block (kThreads), shared SharedBytes
template <ChunkRule kRule, typename T, typename S>
__global__ void __launch_bounds__(kThreads) ChunkScanKernel(const ChunkAttentionArgs args) {
  const ChunkAttentionSpec& spec = args.spec;
  const int K = spec.key_dim, V = spec.value_dim, h = blockIdx.y;
  ChunkSequence sequence;
  if (!FindChunkSequence(args, h, blockIdx.z, sequence)) return;
  const Tiles tiles = TakeTiles(spec);
  S* const state = static_cast<S*>(args.state) + sequence.head * K * V;
  float* const open = args.open + sequence.head * OpenChunkFloats(spec);
  LoadState(state, spec, tiles.state);
  if (kRule == ChunkRule::kLinear) LoadState(open, spec, tiles.open);
  for (int i = threadIdx.x; i < PaddedKeys(K); i += kThreads) {
    tiles.z[i] = i < K ? args.normalizer[sequence.head * K + i] : 0.0f;
    tiles.open_z[i] = kRule == ChunkRule::kLinear && i < K ? open[K * V + i] : 0.0f;
  }
  const int column = FirstColumn() + threadIdx.x % 32, row = threadIdx.x / 32 * kWarpRows;
  bool closed = false;
  int place = sequence.before;  // of the tile's first token in its chunk
  for (int token = sequence.begin; token < sequence.end;) {
    const int rows = min(min(kRows, spec.chunk - place), sequence.end - token);
    const int64_t chunk_begin = static_cast<int64_t>(token) - place;
    __syncthreads();  // the tile before has been read, the states are there
    LoadKeys<T>(args.q, token, rows, h * K, K, tiles.q);
    if (kRule == ChunkRule::kLinear) {
      LoadKeys<T>(args.k, token, rows, h * K, K, tiles.k);
      LoadValues<T>(args, token, rows, h, tiles.v);
    }
    __syncthreads();
    float outside[kWarpRows] = {};
    ReadState(tiles.q, tiles.state, K, outside);
    const Inside inside =
        kRule == ChunkRule::kLinear
            ? AttendLinear(tiles, spec)
            : AttendSoftmax<T>(args, sequence, chunk_begin, place, rows, h, tiles);
#pragma unroll
    for (int j = 0; j < kWarpRows; ++j) {
      const float divisor = ReadNormalizer(tiles.q, tiles.z, K, j) + spec.eps;
      if (row + j >= rows || column >= V) continue;
      *RowAt<T>(args.out, token + row + j, h * V + column) =
          FromFloat<T>(inside.sums[j] / inside.divisors[j] + outside[j] / divisor);
    }
    __syncthreads();  // the states have been read
    const bool closes = place + rows == spec.chunk;
    if (kRule == ChunkRule::kLinear) {
      AddTile(tiles.k, tiles.v, K, tiles.open, tiles.open_z);
      __syncthreads();
      for (int i = threadIdx.x; closes && i < PaddedKeys(K) * kColumns; i += kThreads) {
        tiles.state[i] += tiles.open[i];
        tiles.open[i] = 0.0f;
      }
      for (int i = threadIdx.x; closes && i < PaddedKeys(K); i += kThreads) {
        tiles.z[i] += tiles.open_z[i];
        tiles.open_z[i] = 0.0f;
      }
    } else if (closes) {
      for (int first = 0; first < spec.chunk; first += kRows) {
        __syncthreads();
        LoadChunkTile<T>(args, sequence, chunk_begin, first, h, tiles);
        __syncthreads();
        AddTile(tiles.k, tiles.v, K, tiles.state, tiles.z);
      }
    }
    closed = closed || closes;
    token += rows;
    place = closes ? 0 : place + rows;
  }
  __syncthreads();
  if (closed) StoreState(tiles.state, spec, state);
  if (kRule == ChunkRule::kLinear) StoreState(tiles.open, spec, open);
}

template <ChunkRule kRule, typename T, typename S>
void Launch(const ChunkAttentionArgs& args, size_t shared, cudaStream_t stream) {
  const auto kernel = ChunkScanKernel<kRule, T, S>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  const dim3 grid(DivideUp(args.spec.value_dim, kColumns), args.spec.heads, args.num_sequences);
  Check(LaunchChained(kernel, grid, dim3(kThreads), shared, stream, /*chained=*/false, args),
        "ChunkScanKernel");
}

}  // namespace

void LaunchChunkScan(const ChunkAttentionArgs& args, cudaStream_t stream) {
  const size_t shared = SharedBytes(args.spec);
  if (shared > static_cast<size_t>(MaxSharedBytes())) {
    throw std::invalid_argument("chunk attention: head size: wanted at most 256 on this GPU, got " +
                                std::to_string(args.spec.key_dim));
  }
  ForElements(args.out.dtype, [&]<typename T>() {
    ForElements(args.state_dtype, [&]<typename S>() {
      args.spec.rule == ChunkRule::kLinear
          ? Launch<ChunkRule::kLinear, T, S>(args, shared, stream)
          : Launch<ChunkRule::kSoftmax, T, S>(args, shared, stream);
    });
  });
}

}  // namespace fla::cuda
