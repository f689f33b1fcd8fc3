// A loaded checkpoint that turns tokens into logits.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"
#include "model/batch_view.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/state_pool.h"

namespace fla {

// One step of a model over N sequences with T tokens in all. The first `num_decode` sequences have
// exactly one token each; the others are prompts or pieces of prompts of any length >= 1.
struct Batch {
  std::vector<int> tokens;      // [T], each in [0, vocab), or -1 - i for sampled[i]
  std::vector<int> slots;       // [N], no two equal
  std::vector<int> cu_seqlens;  // [N + 1], from 0 to T
  std::vector<int> positions;   // [N], of each sequence's first token here, counted from 0
  int num_decode = 0;
  std::vector<int> logits_rows;  // rows of `tokens` whose next-token logits are wanted, ascending
  // Device memory: tokens in [0, vocab) that were sampled on the device and that the host need not
  // have seen. Null where no token refers to them.
  const int* sampled = nullptr;
  std::vector<int> hidden_rows;  // rows of `tokens` whose final hidden states are wanted, ascending
  // Rows that are not tokens (0 stands there) but vectors, ascending, and these, one after the
  // other: [rows, embed_dim]. Not for rows that decode.
  std::vector<RowRange> vector_rows;
  std::vector<float> vectors;
};

// What a batch asked for, f32 in device memory, valid until the next call of Forward.
struct ForwardResult {
  Matrix logits;  // [logits_rows.size(), vocab]
  Matrix hidden;  // [hidden_rows.size(), D]: after the final norm, what the logits are a product of
  const DeviceTime* began = nullptr;  // when the tokens were looked up
  // Whether the device has come to the last quarter of the layers, or of few rows to the batch;
  // valid until the call of Forward after the next. Empty for a batch that was recorded.
  std::function<bool()> nears_end;
};

struct LoadOptions {
  std::filesystem::path path;  // a checkpoint folder: config.json, safetensors
  Device device;
  DType dtype = DType::kF32;  // of weights and activations: f32 or bf16
  // Of the layers' projections: dtype where absent, or kF8E4M3 beside bf16 (kernels/fp8.h).
  std::optional<DType> weight_dtype;
  int max_batch_tokens = 2048;  // the largest T that Forward will see; Prepare takes memory for it
  // Called now and then during the load with the fraction done, 0 to 1. May be empty.
  std::function<void(double)> progress;
};

struct WeightSizes {
  int64_t parameters = 0;
  int64_t bytes = 0;  // as held
};

// Thread safety: one thread at a time, that which owns `stream()`.
class Model {
 public:
  // Throws std::runtime_error "file: what: wanted, got" for a bad checkpoint, DeviceError when
  // memory is short.
  static std::unique_ptr<Model> Load(const LoadOptions& options);

  // Does what Load does but for reading and holding the weights: appends to `problems` what it
  // would throw, tensor by tensor. `checkpoint` is of OpenCheckpoint.
  static WeightSizes CheckWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                  DType dtype, std::optional<DType> weight_dtype,
                                  std::vector<std::string>& problems);
  ~Model();

  // To be called before serving, with no slot in use; does nothing on a CPU. Runs the largest
  // batches, so that Forward never allocates later, and records decode batches of up to
  // `max_decode` rows, so that such a batch costs one launch. `sampled` is what those batches'
  // Batch::sampled will be; `max_logits_rows` the most rows of logits that a batch wants. Leaves
  // the states undefined. `pool` must outlive this model's use. Throws DeviceError when memory is
  // short.
  void Prepare(StatePool& pool, const int* sampled, int max_decode, int max_logits_rows);

  // Runs the batch, updating the states of its slots in `pool`.
  ForwardResult Forward(const Batch& batch, StatePool& pool);

  const ModelConfig& config() const;
  Stream& stream();
  int64_t parameters() const;
  int64_t weight_bytes() const;
  // Device memory for intermediate results; grows to what the largest batch so far has needed.
  int64_t workspace_bytes() const;
  DType dtype() const;

 private:
  struct Parts;
  explicit Model(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace fla
