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

}  // namespace

TileMap MakeTileMap(void* matrix, DType dtype, int columns, int tile_rows, int tile_columns) {
  static Encode* const encode = FindEncode();
  // Rows: as many as a tile's coordinate can name. Their number bounds what is clipped, no more.
  const cuuint64_t size[] = {static_cast<cuuint64_t>(columns), INT_MAX};
  const cuuint64_t pitch[] = {static_cast<cuuint64_t>(columns) * SizeOf(dtype)};
  const cuuint32_t tile[] = {static_cast<cuuint32_t>(tile_columns),
                             static_cast<cuuint32_t>(tile_rows)};
  const cuuint32_t every[] = {1, 1};
  const CUtensorMapDataType type =
      dtype == DType::kF32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  TileMap map;
  const CUresult result =
      encode(&map.map, type, 2, matrix, size, pitch, tile, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw DeviceError(std::string(kEncode) + ": CUresult " + std::to_string(result));
  }
  return map;
}

}  // namespace fla::cuda
