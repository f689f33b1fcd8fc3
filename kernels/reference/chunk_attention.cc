#include "kernels/reference/chunk_attention.h"

#include <algorithm>
#include <cmath>

namespace fla::reference {
namespace {

// sum_s weights_s v_s over the tokens [begin, end), divided, into out [V].
void AddWeighted(const ChunkAttentionInputs& inputs, size_t head, size_t begin,
                 const std::vector<double>& weights, double divisor, double* out) {
  const size_t heads = inputs.spec.heads, value_dim = inputs.spec.value_dim;
  for (size_t s = 0; s < weights.size(); ++s) {
    for (size_t j = 0; j < value_dim; ++j) {
      out[j] += weights[s] / divisor * inputs.v[((begin + s) * heads + head) * value_dim + j];
    }
  }
}

double Sum(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

}  // namespace

ChunkAttentionResult ChunkAttention(const ChunkAttentionInputs& inputs) {
  const ChunkAttentionSpec& spec = inputs.spec;
  const size_t heads = spec.heads, key_dim = spec.key_dim, value_dim = spec.value_dim;
  const size_t chunk = spec.chunk, tokens = inputs.q.size() / (heads * key_dim);
  ChunkAttentionResult result;
  result.out.resize(tokens * heads * value_dim);
  result.state.resize(heads * key_dim * value_dim);
  result.normalizer.resize(heads * key_dim);
  for (size_t h = 0; h < heads; ++h) {
    const auto key = [&](size_t s, size_t i) { return inputs.k[(s * heads + h) * key_dim + i]; };
    for (size_t t = 0; t < tokens; ++t) {
      const auto scores = [&](size_t begin, size_t end) {
        std::vector<double> dots(end - begin);
        for (size_t s = begin; s < end; ++s) {
          for (size_t i = 0; i < key_dim; ++i) {
            dots[s - begin] += inputs.q[(t * heads + h) * key_dim + i] * key(s, i);
          }
        }
        return dots;
      };
      double* const out = &result.out[(t * heads + h) * value_dim];
      const size_t begin = t / chunk * chunk;
      const std::vector<double> outside = scores(0, begin);
      AddWeighted(inputs, h, 0, outside, Sum(outside) + spec.eps, out);
      std::vector<double> inside = scores(begin, t + 1);
      if (spec.rule == ChunkRule::kSoftmax) {
        const double largest = spec.scale * *std::ranges::max_element(inside);
        for (double& score : inside) score = std::exp(spec.scale * score - largest);
        AddWeighted(inputs, h, begin, inside, Sum(inside), out);
      } else {
        AddWeighted(inputs, h, begin, inside, Sum(inside) + spec.eps, out);
      }
    }
    for (size_t s = 0; s < tokens / chunk * chunk; ++s) {
      for (size_t i = 0; i < key_dim; ++i) {
        result.normalizer[h * key_dim + i] += key(s, i);
        for (size_t j = 0; j < value_dim; ++j) {
          result.state[(h * key_dim + i) * value_dim + j] +=
              key(s, i) * inputs.v[(s * heads + h) * value_dim + j];
        }
      }
    }
  }
  return result;
}

}  // namespace fla::reference
