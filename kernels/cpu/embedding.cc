#include <cstring>
#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

void CopyRows(Matrix from, const int* rows, Matrix to) {
  ParallelFor(to.rows, ThreadsFor(to.rows * to.cols), [&](int64_t i) {
    thread_local std::vector<float> buffer;
    const char* source = from.Row<const char>(0) + rows[i] * from.stride * SizeOf(from.dtype);
    char* target = to.Row<char>(0) + i * to.stride * SizeOf(to.dtype);
    if (from.dtype == to.dtype) {
      std::memcpy(target, source, to.cols * SizeOf(to.dtype));
    } else {
      const float* row = ReadRow(from, rows[i], 0, to.cols, buffer);
      StoreFloats(to.dtype, row, to.cols, target);
    }
  });
}

}  // namespace

void EmbeddingLookup(Stream&, const int* tokens, Matrix table, Matrix out) {
  CopyRows(table, tokens, out);
}

void GatherRows(Stream&, Matrix x, const int* rows, Matrix out) { CopyRows(x, rows, out); }

}  // namespace fla::cpu
