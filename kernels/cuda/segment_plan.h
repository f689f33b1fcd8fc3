// Whether a prefill's scan cuts its sequences into segments (scan_segment.cuh), and how: a pure
// function of shapes, so that a test can say what it chooses.
#pragma once

#include <cstdint>
#include <span>

namespace fla::cuda {

struct ScanShape {
  int heads, key_dim, value_dim;
  bool delta;
  bool per_channel;  // the decay
  bool wide;
  int multiprocessors;
};

// Blocks of a scan that does not cut: what segments have to beat.
struct WholeScan {
  int key_parts, slices_per_block;
};

struct SegmentPlan {
  int segment_tokens;    // a multiple of kWideChunk; 0: sequences stay whole
  int slices_per_block;  // of both passes; narrow: slices of two tiles, each with the fewest warps
};

// The cheapest plan by an estimate of what a chunk costs (kernels/cuda/README.md says where its
// numbers come from). Whole sequences unless another plan saves a quarter. `cu_seqlens` as in
// RecurrenceArgs, not empty, of the sequences (or parts of them) of one window.
SegmentPlan PlanSegments(const ScanShape& shape, const WholeScan& whole,
                         std::span<const int> cu_seqlens);

// f32 numbers that one segment of one head keeps in the workspace.
int64_t SegmentNumbers(int key_dim, int value_dim, bool delta);

// The fewest warps that can share a slice of 16 columns of the narrow scan.
int MinKeyParts(int key_dim);

}  // namespace fla::cuda
