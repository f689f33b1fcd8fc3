#include "model/hidden_copies.h"

#include <algorithm>

#include "kernels/check.h"
#include "model/sampler.h"

namespace fla {

HiddenCopies::HiddenCopies(Stream& stream) : stream_(stream) {
  for (int i = 0; i <= Sampler::kMaxAhead; ++i) flights_.emplace_back(stream.device());
}

void HiddenCopies::Launch(const Matrix& hidden) {
  FLA_CHECK(launched_ - collected_ <= Sampler::kMaxAhead);
  Flight& flight = flights_[launched_++ % flights_.size()];
  flight.values = hidden.present() ? static_cast<size_t>(hidden.rows * hidden.cols) : 0;
  if (flight.values == 0) return;
  FLA_CHECK(hidden.dtype == DType::kF32 && hidden.contiguous());
  const size_t bytes = flight.values * sizeof(float);
  if (flight.rows.size() < bytes) {
    flight.rows = HostBuffer(stream_.device(), std::max(bytes, 2 * flight.rows.size()));
  }
  stream_.CopyToHost(flight.rows.data(), hidden.data, bytes);
  flight.done.Record(stream_);
}

std::span<const float> HiddenCopies::Collect() {
  FLA_CHECK(collected_ < launched_);
  Flight& flight = flights_[collected_++ % flights_.size()];
  if (flight.values == 0) return {};
  flight.done.Wait();
  return {reinterpret_cast<const float*>(flight.rows.data()), flight.values};
}

}  // namespace fla
