#include "kernels/cuda/tile_map.h"

#include <cuda_runtime_api.h>

#include <climits>
#include <string>

#include "kernels/cuda/errors.h"
#include "kernels/device.h"

namespace fla::cuda {
namespace {

using Encode = decltype(cuTensorMapEncodeTiled);

constexpr char kEncode[] = "cuTensorMapEncodeTiled";

// From the driver that the runtime has loaded: a binary that links libcuda does not start on a
// machine without a GPU.
Encode* FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result = {};
  constexpr unsigned kSince = 12000;  // CUDA 12.0
  Check(cudaGetDriverEntryPointByVersion(kEncode, &function, kSince, cudaEnableDefault, &result),
        "cudaGetDriverEntryPointByVersion");
  if (result != cudaDriverEntryPointSuccess || function == nullptr) {
    throw DeviceError(std::string(kEncode) + ": the driver has none");
  }
  return reinterpret_cast<Encode*>(function);
}

// What the driver is told of an array and its tiles, the innermost dimension first.
struct Dimension {
  cuuint64_t size;
  cuuint64_t bytes;  // from one to the next
  cuuint32_t tile;
};

template <size_t kRank>
TileMap EncodeMap(CUtensorMapDataType type, void* array, const Dimension (&dimensions)[kRank],
                  CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion) {
  static Encode* const encode = FindEncode();
  cuuint64_t size[kRank], pitch[kRank];
  cuuint32_t tile[kRank], every[kRank];
  for (size_t i = 0; i < kRank; ++i) {
    size[i] = dimensions[i].size;
    pitch[i] = dimensions[i].bytes;
    tile[i] = dimensions[i].tile;
    every[i] = 1;
  }
  TileMap map;
  const CUresult result =
      encode(&map.map, type, kRank, array, size, pitch + 1, tile, every,
             CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, promotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError(std::string(kEncode) + ": CUresult " + std::to_string(result));
  }
  return map;
}

template <size_t kRank>
TileMap EncodePanels(const Matrix& matrix, const Dimension (&dimensions)[kRank]) {
  return EncodeMap(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, matrix.data, dimensions,
                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
}

constexpr cuuint32_t kPanelColumns = 64;

// As the copy engine sees it: numbers of 8 bits as half as many of 16.
Matrix In16Bits(Matrix matrix) {
  if (matrix.dtype == DType::kF8E4M3) matrix.cols /= 2, matrix.stride /= 2;
  matrix.dtype = DType::kBF16;
  return matrix;
}

}  // namespace

TileMap MakeTileMap(void* matrix, DType dtype, int columns, int tile_rows, int tile_columns) {
  const auto element = static_cast<cuuint64_t>(SizeOf(dtype));
  const auto cols = static_cast<cuuint64_t>(columns);
  // Rows: as many as a tile's coordinate can name. Their number bounds what is clipped, no more.
  const Dimension dimensions[] = {{cols, element, static_cast<cuuint32_t>(tile_columns)},
                                  {INT_MAX, cols * element, static_cast<cuuint32_t>(tile_rows)}};
  const CUtensorMapDataType type =
      dtype == DType::kF32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return EncodeMap(type, matrix, dimensions, CU_TENSOR_MAP_SWIZZLE_NONE,
                   CU_TENSOR_MAP_L2_PROMOTION_NONE);
}

TileMap MakePanelMap(const Matrix& of, int tile_rows) {
  const Matrix matrix = In16Bits(of);
  const auto element = static_cast<cuuint64_t>(SizeOf(matrix.dtype));
  const Dimension dimensions[] = {{static_cast<cuuint64_t>(matrix.cols), element, kPanelColumns},
                                  {static_cast<cuuint64_t>(matrix.rows), matrix.stride * element,
                                   static_cast<cuuint32_t>(tile_rows)}};
  return EncodePanels(matrix, dimensions);
}

TileMap MakeHeadMap(const void* rows, int64_t stride, int heads, int head_dim, int tile_rows) {
  const auto element = static_cast<cuuint64_t>(SizeOf(DType::kBF16));
  const auto columns = static_cast<cuuint64_t>(head_dim);
  // Rows: as many as a tile's coordinate can name.
  const Dimension dimensions[] = {{columns, element, kPanelColumns},
                                  {INT_MAX, stride * element, static_cast<cuuint32_t>(tile_rows)},
                                  {static_cast<cuuint64_t>(heads), columns * element, 1}};
  return EncodeMap(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, const_cast<void*>(rows), dimensions,
                   CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_NONE);
}

TileMap MakePanelsMap(const Matrix& of, int tile_rows, int tile_panels, bool paired) {
  const Matrix matrix = In16Bits(of);
  const auto element = static_cast<cuuint64_t>(SizeOf(matrix.dtype));
  const cuuint64_t parts = paired ? 2 : 1, rows = static_cast<cuuint64_t>(matrix.rows) / parts;
  const cuuint64_t row = matrix.stride * element;
  const Dimension dimensions[] = {{kPanelColumns, element, kPanelColumns},
                                  {rows, row, static_cast<cuuint32_t>(tile_rows / parts)},
                                  {parts, rows * row, static_cast<cuuint32_t>(parts)},
                                  {static_cast<cuuint64_t>(matrix.cols) / kPanelColumns,
                                   kPanelColumns * element, static_cast<cuuint32_t>(tile_panels)}};
  return EncodePanels(matrix, dimensions);
}

TileMap MakeFloatPanelMap(float* matrix, int columns, int tile_rows) {
  constexpr cuuint32_t kColumns = 32;
  const cuuint64_t row = columns * sizeof(float);
  // Rows: as many as a tile's coordinate can name.
  const Dimension dimensions[] = {
      {kColumns, sizeof(float), kColumns},
      {INT_MAX, row, static_cast<cuuint32_t>(tile_rows)},
      {1, row, 1},
      {static_cast<cuuint64_t>(columns) / kColumns, kColumns * sizeof(float), 1}};
  return EncodeMap(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, matrix, dimensions, CU_TENSOR_MAP_SWIZZLE_NONE,
                   CU_TENSOR_MAP_L2_PROMOTION_NONE);
}

TileMap MakePairedPanelMap(const Matrix& of, int tile_rows) {
  const Matrix matrix = In16Bits(of);
  constexpr cuuint32_t kEight = 8;
  const auto element = static_cast<cuuint64_t>(SizeOf(matrix.dtype));
  const auto half = static_cast<cuuint64_t>(matrix.rows) / 2;
  const cuuint64_t row = matrix.stride * element;
  const Dimension dimensions[] = {
      {static_cast<cuuint64_t>(matrix.cols), element, kPanelColumns},
      {kEight, row, kEight},
      {2, half * row, 2},
      {half / kEight, kEight * row, static_cast<cuuint32_t>(tile_rows) / (2 * kEight)}};
  return EncodePanels(matrix, dimensions);
}

}  // namespace fla::cuda
