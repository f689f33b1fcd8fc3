// From a chunk's q, k, decays and betas to the matrices that advance the state by it: see
// kernels/README.md, "Chunks". Per-target code: included by recurrence_prefill.cc.
//
// Every decay between two tokens is formed as a product of alphas <= 1, never as a quotient nor as
// an exponential of a difference of sums: it cannot overflow, and a strong decay costs its
// neighbours no precision.
#include "kernels/cpu/recurrence_matmul-inl.h"
#include "kernels/cpu/recurrence_rows-inl.h"

#if defined(FLA_KERNELS_CPU_RECURRENCE_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLA_KERNELS_CPU_RECURRENCE_CHUNK_INL_H_
#undef FLA_KERNELS_CPU_RECURRENCE_CHUNK_INL_H_
#else
#define FLA_KERNELS_CPU_RECURRENCE_CHUNK_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {

inline constexpr int kChunk = 64;     // C: tokens that advance the state together
inline constexpr int kSubChunk = 16;  // tokens whose per-channel decays are formed pair by pair
static_assert(kChunk % kSubChunk == 0 && kSubChunk % kLanePadding == 0);

// G_t is the product of the alphas of the chunk's tokens up to t, per channel. "In" is what
// LoadChunk writes, "out" what the decay functions below leave.
struct Chunk {
  int rows = 0;  // tokens in this chunk, at most C
  int key_dim = 0;
  bool delta = false;
  Tile q;          // [C, K] in: scale q_t;  out: G_t scale q_t
  Tile k;          // [C, K] in: k_t;        out: -beta_t G_t k_t (delta)
  Tile alpha;      // [C, K] in, per channel only
  Tile sub_k;      // [kSubChunk, K] scratch, per channel only
  Tile k_to_end;   // [K, C] in: 0;  out: column s is (G_last / G_s) k_s
  Tile attention;  // [C, C] in: 0;  out: row t, s <= t: scale q_t . (G_t / G_s) k_s; 0 where s > t
  Tile coupling;   // [C, C] in: 0;  out (delta): row t, s < t: -beta_t k_t . (G_t / G_s) k_s
  float* carry;    // [K] out: G_last
  float* beta;     // [C] in; 1 for the additive rule
  float* row_alpha;  // [C] in, unless per channel
};

// Decays that are equal in all channels: none, per head, per token.
HWY_INLINE void ApplyScalarDecay(const Chunk& x) {
  const int padded_key = PadLanes(x.key_dim), padded_rows = PadLanes(x.rows);
  Transpose(x.k, x.rows, x.key_dim, x.k_to_end);
  for (int begin = 0; begin < x.rows; begin += kSubChunk) {
    const int rows = HWY_MIN(kSubChunk, x.rows - begin), columns = PadLanes(begin + rows);
    MultiplyAdd(x.q.At(begin, 0), x.k_to_end, rows, x.key_dim, columns, x.attention.At(begin, 0));
    if (x.delta) {
      MultiplyAdd(x.k.At(begin, 0), x.k_to_end, rows, x.key_dim, columns, x.coupling.At(begin, 0));
    }
  }
  // between[s] is G_t / G_s for s <= t, 0 after t.
  HWY_ALIGN float between[kChunk] = {};
  float from_start = 1.0f;
  for (int t = 0; t < x.rows; ++t) {
    ScaleRow(x.row_alpha[t], padded_rows, between);
    if (x.delta) {
      MultiplyRow(between, padded_rows, x.coupling.Row(t));
      ScaleRow(-x.beta[t], padded_rows, x.coupling.Row(t));
    }
    between[t] = 1.0f;
    MultiplyRow(between, padded_rows, x.attention.Row(t));
    from_start *= x.row_alpha[t];
    ScaleRow(from_start, padded_key, x.q.Row(t));
    if (x.delta) ScaleRow(-x.beta[t] * from_start, padded_key, x.k.Row(t));
  }
  for (int i = 0; i < x.key_dim; ++i) {
    MultiplyRow(between, padded_rows, x.k_to_end.Row(i));
    x.carry[i] = from_start;
  }
}

// attention and coupling among the tokens [begin, begin + rows) of one sub-chunk; leaves
// sub_k row s = k_s decayed to the sub-chunk's last token.
HWY_INLINE void ApplyPairDecay(const Chunk& x, int begin, int rows) {
  const int padded_key = PadLanes(x.key_dim);
  for (int s = 0; s < rows; ++s) {
    float* const decayed_k = x.sub_k.Row(s);
    LoadFloats(x.k.Row(begin + s), padded_key, 1.0f, decayed_k);
    for (int t = s; t < rows; ++t) {
      const int row = begin + t, column = begin + s;
      if (t > s) MultiplyRow(x.alpha.Row(row), padded_key, decayed_k);
      x.attention.Row(row)[column] = Dot(x.q.Row(row), decayed_k, padded_key);
      if (x.delta && t > s) {
        x.coupling.Row(row)[column] = -x.beta[row] * Dot(x.k.Row(row), decayed_k, padded_key);
      }
    }
  }
}

// Decays per channel. Sub-chunk by sub-chunk: pairs inside one are formed directly; pairs with
// earlier tokens meet at the sub-chunk's start, to which k_to_end has carried the earlier keys.
HWY_INLINE void ApplyChannelDecay(const Chunk& x) {
  const int padded_key = PadLanes(x.key_dim);
  for (int i = 0; i < padded_key; ++i) x.carry[i] = 1.0f;
  for (int begin = 0; begin < x.rows; begin += kSubChunk) {
    const int rows = HWY_MIN(kSubChunk, x.rows - begin);
    ApplyPairDecay(x, begin, rows);
    // alpha row t becomes the product from the sub-chunk's start to t.
    for (int t = begin; t < begin + rows; ++t) {
      if (t > begin) MultiplyRow(x.alpha.Row(t - 1), padded_key, x.alpha.Row(t));
      MultiplyRow(x.alpha.Row(t), padded_key, x.q.Row(t));
      if (!x.delta) continue;
      MultiplyRow(x.alpha.Row(t), padded_key, x.k.Row(t));
      ScaleRow(-x.beta[t], padded_key, x.k.Row(t));
    }
    const Tile q = x.q.At(begin, 0), k = x.k.At(begin, 0);
    MultiplyAdd(q, x.k_to_end, rows, x.key_dim, begin, x.attention.At(begin, 0));
    if (x.delta) MultiplyAdd(k, x.k_to_end, rows, x.key_dim, begin, x.coupling.At(begin, 0));
    for (int t = 0; t < rows; ++t) {
      MultiplyRow(x.carry, padded_key, q.Row(t));
      if (x.delta) MultiplyRow(x.carry, padded_key, k.Row(t));
    }
    const float* const whole = x.alpha.Row(begin + rows - 1);
    MultiplyRow(whole, padded_key, x.carry);
    for (int i = 0; i < x.key_dim; ++i) ScaleRow(whole[i], begin, x.k_to_end.Row(i));
    Transpose(x.sub_k, rows, x.key_dim, x.k_to_end.At(0, begin));
  }
}

}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FLA_KERNELS_CPU_RECURRENCE_CHUNK_INL_H_
