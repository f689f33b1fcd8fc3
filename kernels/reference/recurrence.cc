#include "kernels/reference/recurrence.h"

#include <cmath>
#include <stdexcept>
#include <string>

namespace fla::reference {
namespace {

template <typename T>
std::span<T> Slice(std::span<T> values, size_t index, size_t width) {
  if ((index + 1) * width > values.size()) {
    throw std::out_of_range("reference recurrence: wanted " + std::to_string((index + 1) * width) +
                            " values, got " + std::to_string(values.size()));
  }
  return values.subspan(index * width, width);
}

// One token of one head: `state` [K, V] is updated, `out` [V] is written.
struct Token {
  std::span<const double> q, k, v;
  std::vector<double> alpha;  // [K]
  bool delta = false;
  double beta = 0;
  double scale = 1;
};

void Advance(const Token& token, std::span<double> state, std::span<double> out) {
  const size_t key_dim = token.k.size(), value_dim = token.v.size();
  for (size_t j = 0; j < value_dim; ++j) {
    double recalled = 0;  // (S^T k)_j
    for (size_t i = 0; i < key_dim; ++i) {
      state[i * value_dim + j] *= token.alpha[i];
      recalled += state[i * value_dim + j] * token.k[i];
    }
    const double written = token.delta ? token.beta * (token.v[j] - recalled) : token.v[j];
    out[j] = 0;
    for (size_t i = 0; i < key_dim; ++i) {
      state[i * value_dim + j] += token.k[i] * written;
      out[j] += token.scale * state[i * value_dim + j] * token.q[i];
    }
  }
}

std::vector<double> Alpha(const RecurrenceInputs& inputs, size_t t, size_t head) {
  const RecurrenceSpec& spec = inputs.spec;
  std::vector<double> alpha(spec.key_dim, 1.0);
  if (spec.decay == Decay::kNone) return alpha;
  if (spec.decay == Decay::kPerHead) {
    alpha.assign(spec.key_dim, std::exp(Slice(inputs.log_decay, head, 1)[0]));
    return alpha;
  }
  const size_t row = t * spec.decay_heads + head * spec.decay_heads / spec.heads;
  if (spec.decay == Decay::kPerToken) {
    alpha.assign(spec.key_dim, std::exp(Slice(inputs.log_decay, row, 1)[0]));
    return alpha;
  }
  const auto log_alpha = Slice(inputs.log_decay, row, spec.key_dim);
  for (size_t i = 0; i < alpha.size(); ++i) alpha[i] = std::exp(log_alpha[i]);
  return alpha;
}

}  // namespace

std::vector<double> Recurrence(const RecurrenceInputs& inputs, std::span<double> state) {
  const RecurrenceSpec& spec = inputs.spec;
  const size_t heads = spec.heads;
  const size_t key_dim = spec.key_dim, value_dim = spec.value_dim;
  std::vector<double> out(inputs.cu_seqlens.back() * heads * value_dim);
  for (size_t n = 0; n < inputs.slots.size(); ++n) {
    for (int t = inputs.cu_seqlens[n]; t < inputs.cu_seqlens[n + 1]; ++t) {
      for (size_t h = 0; h < heads; ++h) {
        Token token;
        token.q = Slice(inputs.q, t * spec.q_heads + h * spec.q_heads / heads, key_dim);
        token.k = Slice(inputs.k, t * spec.k_heads + h * spec.k_heads / heads, key_dim);
        token.v = Slice(inputs.v, t * spec.v_heads + h * spec.v_heads / heads, value_dim);
        token.alpha = Alpha(inputs, t, h);
        token.delta = spec.update == Update::kDelta;
        token.beta = token.delta ? Slice(inputs.beta, t * heads + h, 1)[0] : 0;
        token.scale = spec.scale;
        Advance(token, Slice(state, inputs.slots[n] * heads + h, key_dim * value_dim),
                Slice(std::span(out), t * heads + h, value_dim));
      }
    }
  }
  return out;
}

}  // namespace fla::reference
