#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/device_clock.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

// A row below 0 stands for indirect[-1 - row].
void CopyRows(Matrix from, const int* rows, const int* indirect, Matrix to) {
  ParallelFor(to.rows, ThreadsFor(to.rows * to.cols), [&](int64_t i) {
    thread_local std::vector<float> buffer;
    const int row_index = rows[i] >= 0 ? rows[i] : indirect[-1 - rows[i]];
    const char* source = from.Row<const char>(0) + row_index * from.stride * SizeOf(from.dtype);
    char* target = to.Row<char>(0) + i * to.stride * SizeOf(to.dtype);
    if (from.dtype == to.dtype) {
      std::memcpy(target, source, to.cols * SizeOf(to.dtype));
    } else {
      const float* row = ReadRow(from, row_index, 0, to.cols, buffer);
      StoreFloats(to.dtype, row, to.cols, target);
    }
  });
}

}  // namespace

void EmbeddingLookup(Stream&, const int* tokens, Matrix table, Matrix out, const int* sampled,
                     DeviceTime* began) {
  if (began != nullptr) *began = Now();
  CopyRows(table, tokens, sampled, out);
}

void WriteInts(Stream&, std::span<const int> values, int* target) {
  std::copy(values.begin(), values.end(), target);
}

void GatherRows(Stream&, Matrix x, const int* rows, Matrix out) { CopyRows(x, rows, nullptr, out); }

void ZeroRows(Stream&, const ByteRows* regions, int count, int64_t row) {
  for (int i = 0; i < count; ++i) {
    std::memset(static_cast<char*>(regions[i].begin) + row * regions[i].bytes, 0, regions[i].bytes);
  }
}

}  // namespace fla::cpu
