// ChunkedPrefill, and what a KDA layer does to its inputs before it, as a C library:
// prefill_library.py calls them with the memory of torch tensors, so that peers and ours are
// checked and timed by the same code in the same process.
#include <exception>
#include <string>

#include "kernels/cuda/context.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/recurrence.h"

namespace {

thread_local std::string error;

// Null, or what went wrong; valid until the thread's next call.
template <typename Call>
const char* Caught(const Call& call) {
  try {
    call();
    return nullptr;
  } catch (const std::exception& exception) {
    error = exception.what();
    return error.c_str();
  }
}

fla::Matrix Rows(void* data, int64_t rows, int64_t cols) {
  return {data, fla::DType::kBF16, rows, cols, cols};
}

}  // namespace

extern "C" {

// Device memory but for cu_seqlens_host, contiguous. Member by member the structure of the same
// name in prefill_library.py.
struct FlaPrefill {
  void* q;                     // [T, qk_heads * K] bf16
  void* k;                     // [T, qk_heads * K] bf16
  void* v;                     // [T, H * V] bf16
  void* out;                   // [T, H * V] bf16
  float* log_decay;            // as in RecurrenceArgs
  float* beta;                 // [T, H]
  void* state;                 // [N, H, K, V] f32
  const int* slots;            // [N]
  const int* cu_seqlens;       // [N + 1]
  const int* cu_seqlens_host;  // [N + 1]
  int64_t tokens;              // T
  int num_sequences, decay, update, qk_heads, heads, key_dim, value_dim;
  float scale;
};

// A KDA layer's q, k, gate and beta as its projections leave them, instead of FlaPrefill's.
struct FlaKdaInputs {
  void* q;         // [T, qk_heads * K] bf16, to be divided by its norm
  void* k;         // [T, qk_heads * K] bf16, likewise
  void* gate;      // [T, H * K] bf16
  void* beta;      // [T, H] bf16, before the sigmoid
  float* a_log;    // [H]
  float* dt_bias;  // [H, K]
  float lower_bound;
  int by_ops;  // they become FlaPrefill's by ops before the prefill, which does not take them
               // itself
};

// Opens a stream on GPU 0, for the life of the process. Null, or what went wrong.
const char* FlaOpenStream(fla::Stream** stream) {
  return Caught([&] { *stream = new fla::Stream({fla::Device::Kind::kCuda, 0}); });
}

cudaStream_t FlaCudaStream(fla::Stream* stream) { return stream->cuda()->stream; }

// Queues a prefill on the stream, of `inputs` where these are not null. Null, or what went wrong.
const char* FlaQueuePrefill(fla::Stream* stream, const FlaPrefill* call,
                            const FlaKdaInputs* inputs) {
  return Caught([&] {
    const int64_t T = call->tokens;
    const int key_cols = call->qk_heads * call->key_dim, value_cols = call->heads * call->value_dim;
    fla::RecurrenceProjections projections;
    if (inputs != nullptr) {
      projections.q_norm = projections.k_norm = fla::HeadNorm::kL2;
      projections.norm_eps = 1e-6f;
      fla::LogDecayArgs& decay = projections.log_decay;
      decay.kind = fla::GateKind::kBoundedSigmoid;
      decay.x = Rows(inputs->gate, T, call->heads * call->key_dim);
      decay.heads = call->heads;
      decay.a_log = inputs->a_log;
      decay.dt_bias = inputs->dt_bias;
      decay.lower_bound = inputs->lower_bound;
      decay.out = call->log_decay;
      projections.beta = Rows(inputs->beta, T, call->heads);
    }
    const bool by_ops = inputs != nullptr && inputs->by_ops;
    if (by_ops) {
      fla::ActivateHeadsArgs norm;
      norm.head_dim = call->key_dim;
      norm.norm = projections.q_norm;
      norm.eps = projections.norm_eps;
      norm.x = Rows(inputs->q, T, key_cols);
      norm.out = Rows(call->q, T, key_cols);
      fla::cuda::ActivateHeads(*stream, norm);
      norm.x = Rows(inputs->k, T, key_cols);
      norm.out = Rows(call->k, T, key_cols);
      fla::cuda::ActivateHeads(*stream, norm);
      fla::cuda::LogDecay(*stream, projections.log_decay);
      fla::cuda::Beta(*stream, projections.beta, 1.0f, call->beta);
    }
    fla::RecurrenceArgs args;
    args.spec.decay = static_cast<fla::Decay>(call->decay);
    args.spec.update = static_cast<fla::Update>(call->update);
    args.spec.key_dim = call->key_dim;
    args.spec.value_dim = call->value_dim;
    args.spec.heads = args.spec.v_heads = args.spec.decay_heads = call->heads;
    args.spec.q_heads = args.spec.k_heads = call->qk_heads;
    args.spec.scale = call->scale;
    const bool fused = inputs != nullptr && !by_ops;
    if (fused) args.projections = projections;
    args.q = Rows(fused ? inputs->q : call->q, T, key_cols);
    args.k = Rows(fused ? inputs->k : call->k, T, key_cols);
    args.v = Rows(call->v, T, value_cols);
    args.out = Rows(call->out, T, value_cols);
    args.log_decay = call->log_decay;
    args.beta = call->beta;
    args.state = call->state;
    args.slots = call->slots;
    args.cu_seqlens = call->cu_seqlens;
    args.cu_seqlens_host = call->cu_seqlens_host;
    args.num_sequences = call->num_sequences;
    fla::cuda::ChunkedPrefill(*stream, args);
  });
}

}  // extern "C"
