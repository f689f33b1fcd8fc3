// Hidden states on their way to the host.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// The hidden states of steps: Launch only queues a copy, Collect waits for it. Launches may run
// ahead of Collect as the Sampler's may, and are collected in their order. Steps without hidden
// states cost nothing; host memory is taken when the largest so far comes.
//
// Thread safety: one thread at a time, that which owns the stream.
class HiddenCopies {
 public:
  explicit HiddenCopies(Stream& stream);

  // `hidden` [N, D] f32, contiguous in device memory, or absent: none in this step. To be called
  // after Model::Forward and before its next call.
  void Launch(const Matrix& hidden);

  // The rows of the first Launch that was not collected, one after the other; valid until the next
  // Launch. To be called once for each.
  std::span<const float> Collect();

 private:
  struct Flight {
    explicit Flight(Device device) : done(device) {}
    HostBuffer rows;
    size_t values = 0;
    Fence done;
  };

  Stream& stream_;
  std::vector<Flight> flights_;  // that take turns
  size_t launched_ = 0;          // Launches so far
  size_t collected_ = 0;
};

}  // namespace fla
