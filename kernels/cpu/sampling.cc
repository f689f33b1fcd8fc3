#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cpu/device_clock.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row_kernels.h"

namespace fla::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The order of every cut: larger first, of equals the lower token.
struct Candidate {
  float value;
  int token;

  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.token < b.token;
  }
};

int ArgMax(const float* x, int count) {
  return static_cast<int>(std::find(x, x + count, MaxFloats(x, count)) - x);
}

// The `wanted` largest entries in order; `wanted` is small.
void LargestInOrder(const float* x, int count, int wanted, std::vector<Candidate>& largest) {
  largest.clear();
  for (int i = 0; i < count; ++i) {
    const Candidate candidate{x[i], i};
    if (static_cast<int>(largest.size()) == wanted) {
      if (!(candidate < largest.back())) continue;
      largest.pop_back();
    }
    largest.insert(std::upper_bound(largest.begin(), largest.end(), candidate), candidate);
  }
}

// The model's own distribution: log p(x) = (x - largest) - log_sum, in that order, since a
// normaliser of the size of the logits would eat the digits of log_sum.
struct LogNormalizer {
  float largest;
  float log_sum;

  float LogProbability(float logit) const { return (logit - largest) - log_sum; }
};

void ReportTopLogprobs(const SampleArgs& args, int64_t row, const float* logits, int vocab,
                       const LogNormalizer& normalizer) {
  const int wanted = std::min(args.rows[row].num_top_logprobs, kMaxTopLogprobs);
  if (wanted <= 0) return;
  thread_local std::vector<Candidate> largest;
  LargestInOrder(logits, vocab, std::min(wanted, vocab), largest);
  int* tokens = args.top_tokens + row * kMaxTopLogprobs;
  float* logprobs = args.top_logprobs + row * kMaxTopLogprobs;
  for (int i = 0; i < wanted; ++i) {
    const bool exists = i < static_cast<int>(largest.size());
    tokens[i] = exists ? largest[i].token : -1;
    logprobs[i] = exists ? normalizer.LogProbability(largest[i].value) : -kInfinity;
  }
}

void AddBiasesAndPenalties(const SampleArgs& args, const SamplingRow& row, float* logits) {
  for (int i = row.biases_begin; i < row.biases_end; ++i) {
    logits[args.biases[i].token] += args.biases[i].bias;
  }
  for (int i = row.counts_begin; i < row.counts_end; ++i) {
    const TokenCount& count = args.counts[i];
    float& logit = logits[count.token];
    if (count.prompt_count > 0 || count.output_count > 0) {
      logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    logit -= row.frequency_penalty * static_cast<float>(count.output_count);
    if (count.output_count > 0) logit -= row.presence_penalty;
  }
}

// Splits weights in [0, 1] by their leading bits into buckets of a 16th of an octave, which a cut
// needs to look into only where it falls.
class WeightHistogram {
 public:
  void Fill(const float* weights, int count) {
    counts_.assign(kBuckets, 0);
    masses_.assign(kBuckets, 0.0);
    for (int i = 0; i < count; ++i) {
      if (weights[i] <= 0.0f) continue;
      const int bucket = BucketOf(weights[i]);
      ++counts_[bucket];
      masses_[bucket] += weights[i];
    }
  }

  double total() const {
    double sum = 0;
    for (int b = kBuckets - 1; b >= 0; --b) sum += masses_[b];
    return sum;
  }

  // Keeps the `k` first candidates: weights of all others become 0.
  void KeepTopK(int k, float* weights, int count) {
    int64_t above = 0;
    int bucket = kBuckets - 1;
    for (; bucket > 0 && above + counts_[bucket] < k; --bucket) above += counts_[bucket];
    if (above + counts_[bucket] < k) return;  // there are fewer candidates
    std::vector<Candidate>& edge = Collect(bucket, weights, count);
    const auto last = edge.begin() + (k - above - 1);
    std::nth_element(edge.begin(), last, edge.end());
    DropAfter(*last, weights, count);
  }

  // Keeps the shortest run of first candidates whose weights reach `mass`, at least one.
  void KeepMass(double mass, float* weights, int count) {
    double above = 0;
    int bucket = kBuckets - 1;
    while (bucket > 0 && above + masses_[bucket] < mass) above += masses_[bucket--];
    std::vector<Candidate>& edge = Collect(bucket, weights, count);
    if (edge.empty()) return;
    std::sort(edge.begin(), edge.end());
    size_t last = 0;
    for (above += edge[0].value; above < mass && last + 1 < edge.size();) {
      above += edge[++last].value;
    }
    DropAfter(edge[last], weights, count);
  }

 private:
  static constexpr int kShift = 19;                // leaves 8 bits of exponent and 4 of mantissa
  static constexpr int kBuckets = (127 << 4) + 1;  // up to and with 1.0f

  static int BucketOf(float weight) {
    return static_cast<int>(std::bit_cast<uint32_t>(weight) >> kShift);
  }

  std::vector<Candidate>& Collect(int bucket, const float* weights, int count) {
    edge_.clear();
    for (int i = 0; i < count; ++i) {
      if (weights[i] > 0.0f && BucketOf(weights[i]) == bucket) edge_.push_back({weights[i], i});
    }
    return edge_;
  }

  static void DropAfter(const Candidate& last, float* weights, int count) {
    for (int i = 0; i < count; ++i) {
      if (last < Candidate{weights[i], i}) weights[i] = 0.0f;
    }
  }

  std::vector<int> counts_;
  std::vector<double> masses_;
  std::vector<Candidate> edge_;
};

void Cut(const SamplingRow& row, float* weights, int vocab) {
  const bool cut_k = row.top_k > 0 && row.top_k < vocab;
  const bool cut_p = row.top_p < 1.0f;
  if (cut_k || cut_p) {
    thread_local WeightHistogram histogram;
    histogram.Fill(weights, vocab);
    if (cut_k) histogram.KeepTopK(row.top_k, weights, vocab);
    if (cut_p) {
      if (cut_k) histogram.Fill(weights, vocab);
      histogram.KeepMass(static_cast<double>(row.top_p) * histogram.total(), weights, vocab);
    }
  }
  if (row.min_p > 0.0f) {  // the largest weight is exp(0)
    for (int i = 0; i < vocab; ++i) {
      if (weights[i] < row.min_p) weights[i] = 0.0f;
    }
  }
}

// The token at which the running sum of weights, in order of token, passes uniform * total.
int Draw(const float* weights, int vocab, float uniform) {
  constexpr int kBlock = 1024;
  thread_local std::vector<double> sums;
  sums.clear();
  double total = 0;
  for (int begin = 0; begin < vocab; begin += kBlock) {
    sums.push_back(SumFloats(weights + begin, std::min(kBlock, vocab - begin)));
    total += sums.back();
  }
  double left = static_cast<double>(uniform) * total;
  size_t block = 0;
  while (block + 1 < sums.size() && left >= sums[block]) left -= sums[block++];
  int token = -1;
  for (int i = static_cast<int>(block) * kBlock; i < vocab; ++i) {
    if (weights[i] <= 0.0f) continue;
    token = i;
    left -= weights[i];
    if (left < 0) break;
  }
  // Rounding may leave a rest after the last token that has weight.
  for (int i = vocab - 1; token < 0 && i >= 0; --i) {
    if (weights[i] > 0.0f) token = i;
  }
  return std::max(token, 0);
}

int Choose(const SampleArgs& args, const SamplingRow& row, float* logits, int vocab) {
  if (row.forced_token >= 0) return row.forced_token;
  AddBiasesAndPenalties(args, row, logits);
  const float largest = MaxFloats(logits, vocab);
  if (row.temperature <= 0.0f || !std::isfinite(largest)) return ArgMax(logits, vocab);
  ExpFloats(logits, largest, 1.0f / row.temperature, vocab, logits);
  Cut(row, logits, vocab);
  return Draw(logits, vocab, UniformAt(row.seed, row.position));
}

void ChooseToken(const SampleArgs& args, int64_t i) {
  const SamplingRow& row = args.rows[i];
  float* logits = args.logits.Row<float>(i);
  const int vocab = static_cast<int>(args.logits.cols);
  const bool finite = AllFiniteFloats(logits, vocab);
  if (args.nonfinite != nullptr) args.nonfinite[i] = finite ? 0 : 1;
  if (!finite) {
    args.tokens[i] = 0;
    if (args.logprobs != nullptr) args.logprobs[i] = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  if (args.logprobs == nullptr) {
    args.tokens[i] = Choose(args, row, logits, vocab);
    return;
  }
  LogNormalizer normalizer;
  normalizer.largest = MaxFloats(logits, vocab);
  normalizer.log_sum = std::log(SumExpFloats(logits, normalizer.largest, vocab));
  ReportTopLogprobs(args, i, logits, vocab, normalizer);
  thread_local std::vector<float> raw;  // choosing overwrites the logits
  raw.assign(logits, logits + vocab);
  args.tokens[i] = Choose(args, row, logits, vocab);
  args.logprobs[i] = normalizer.LogProbability(raw[args.tokens[i]]);
}

void SampleRow(const SampleArgs& args, int64_t i) {
  ChooseToken(args, i);
  if (args.host_tokens != nullptr) args.host_tokens[i] = args.tokens[i];
  if (args.times != nullptr) args.times[i] = {args.began != nullptr ? *args.began : 0, Now()};
}

}  // namespace

void Sample(Stream&, const SampleArgs& args) {
  ParallelFor(args.logits.rows, MaxThreads(), [&](int64_t i) { SampleRow(args, i); });
}

}  // namespace fla::cpu
