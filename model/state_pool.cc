#include "model/state_pool.h"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#include "kernels/ops.h"
#include "model/mixer_spec.h"

namespace fla {
namespace {

constexpr int64_t kAlignment = 256;

struct LayerBytes {  // of one slot
  int64_t recurrent, convolution, normalizer, open_chunk, pending;

  int64_t sum() const { return recurrent + convolution + normalizer + open_chunk + pending; }
};

LayerBytes BytesOf(const ModelConfig& config, StateFormat format) {
  const MixerSpec& mixer = config.mixer;
  const int64_t heads = mixer.heads, key_dim = mixer.state_k_dim();
  return {heads * key_dim * mixer.head_v_dim * static_cast<int64_t>(SizeOf(format.dtype)),
          static_cast<int64_t>(mixer.conv_channels()) * std::max(mixer.conv_width - 1, 0) * 4,
          mixer.normalization == Normalization::kNone ? 0 : heads * key_dim * 4,
          mixer.has_open_chunk() ? heads * OpenChunkFloats(ChunkAttentionOf(mixer)) * 4 : 0,
          format.replay > 0 ? PendingLayoutOf(RecurrenceOf(mixer), format.replay).bytes : 0};
}

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

bool TakesReplay(const Stream& stream, const ModelConfig& config) {
  return !config.mixer.has_open_chunk() && TakesReplay(stream, RecurrenceOf(config.mixer));
}

int64_t StateBytesPerSlot(const ModelConfig& config, StateFormat format) {
  const LayerBytes bytes = BytesOf(config, format);
  return config.num_layers * bytes.sum();
}

StatePool::StatePool(Stream& stream, const ModelConfig& config, int slots, StateFormat format)
    : total_(slots),
      format_(format),
      recurrence_(RecurrenceOf(config.mixer)),
      may_wait_(std::max(slots, 0)) {
  if (slots < 1)
    throw std::invalid_argument("slots: wanted at least 1, got " + std::to_string(slots));
  if (format.replay > 0 && (format.dtype != DType::kF32 || !TakesReplay(stream, config))) {
    throw std::invalid_argument("replay: wanted 0, got " + std::to_string(format.replay) +
                                ": there are no such kernels");
  }
  const LayerBytes bytes = BytesOf(config, format);
  const auto pooled = [&](int64_t one) { return Aligned(one * slots); };
  layer_bytes_ = pooled(bytes.recurrent) + pooled(bytes.convolution) + pooled(bytes.normalizer) +
                 pooled(bytes.open_chunk) + pooled(bytes.pending);
  memory_ = Buffer(stream.device(), config.num_layers * layer_bytes_);
  stream.Zero(memory_.data(), memory_.size());
  std::vector<ByteRows> regions;
  char* next = memory_.as<char>();
  const auto region = [&](int64_t one) -> void* {
    if (one == 0) return nullptr;
    char* begin = next;
    regions.push_back({begin, one});
    next += pooled(one);
    return begin;
  };
  layers_.resize(config.num_layers);
  for (LayerState& layer : layers_) {
    layer.recurrent = region(bytes.recurrent);
    layer.convolution = static_cast<float*>(region(bytes.convolution));
    layer.normalizer = static_cast<float*>(region(bytes.normalizer));
    layer.open_chunk = static_cast<float*>(region(bytes.open_chunk));
    layer.replay = {format.replay, region(bytes.pending)};
  }
  num_regions_ = static_cast<int>(regions.size());
  regions_ = Buffer(stream.device(), regions.size() * sizeof(ByteRows));
  stream.CopyToDevice(regions_.data(), regions.data(), regions_.size());
  for (int slot = slots - 1; slot >= 0; --slot) free_.push_back(slot);
  used_ = 0;
}

int StatePool::Acquire(Stream& stream) {
  if (free_.empty()) return -1;
  const int slot = free_.back();
  free_.pop_back();
  ZeroRows(stream, regions_.as<ByteRows>(), num_regions_, slot);
  may_wait_[slot] = false;
  used_ = total_ - static_cast<int>(free_.size());
  return slot;
}

void StatePool::LeavePending(std::span<const int> slots) {
  if (format_.replay == 0) return;
  for (const int slot : slots) may_wait_[slot] = true;
}

void StatePool::ApplyPending(Stream& stream, std::span<const int> slots, const int* device_slots) {
  if (std::none_of(slots.begin(), slots.end(), [&](int slot) { return may_wait_[slot]; })) return;
  for (const int slot : slots) may_wait_[slot] = false;
  fla::ApplyPending(stream, {.spec = recurrence_,
                             .state = layers_.front().recurrent,
                             .replay = layers_.front().replay,
                             .layers = static_cast<int>(layers_.size()),
                             .layer_bytes = layer_bytes_,
                             .slots = device_slots,
                             .num_sequences = static_cast<int>(slots.size())});
}

void StatePool::Release(int slot) {
  const auto place = std::lower_bound(free_.begin(), free_.end(), slot, std::greater<>());
  if (slot < 0 || slot >= total_ || (place != free_.end() && *place == slot)) {
    throw std::logic_error("slot " + std::to_string(slot) + " is not in use");
  }
  free_.insert(place, slot);
  used_ = total_ - static_cast<int>(free_.size());
}

}  // namespace fla
