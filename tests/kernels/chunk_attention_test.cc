// Chunk attention against its definition, however a sequence is cut into calls.
#include "kernels/chunk_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/reference/chunk_attention.h"
#include "tests/kernels/device_matrix.h"

namespace fla::testing {
namespace {

constexpr int kUnboundPiece = 1 << 30;

// Whole sequences, all from position 0.
struct Problem {
  ChunkAttentionSpec spec;
  std::vector<int> lengths;
  std::vector<int> slots;
  int num_slots;
  std::vector<double> q, k, v;  // packed
};

// Queries and keys have a common direction, so that no sum of scores is near 0 and the divisions
// are well conditioned. (With signs that mix, the formula itself loses every digit now and then.)
Problem RandomProblem(const ChunkAttentionSpec& spec, DType dtype, std::vector<int> lengths,
                      uint32_t seed) {
  Problem problem{.spec = spec, .lengths = std::move(lengths)};
  const int tokens = std::accumulate(problem.lengths.begin(), problem.lengths.end(), 0);
  std::mt19937 random(seed);
  problem.num_slots = static_cast<int>(problem.lengths.size()) + 2;
  problem.slots.resize(problem.num_slots);
  std::iota(problem.slots.begin(), problem.slots.end(), 0);
  std::shuffle(problem.slots.begin(), problem.slots.end(), random);
  problem.slots.resize(problem.lengths.size());
  problem.q = RandomNormal(tokens * spec.heads * spec.key_dim, seed + 1, dtype);
  problem.k = RandomNormal(tokens * spec.heads * spec.key_dim, seed + 2, dtype);
  problem.v = RandomNormal(tokens * spec.heads * spec.value_dim, seed + 3, dtype);
  for (auto* values : {&problem.q, &problem.k}) {
    for (double& value : *values) value = Rounded(value + 1.5, dtype);
  }
  return problem;
}

ChunkAttentionSpec SpecOf(ChunkRule rule, int chunk, int key_dim, int value_dim, int heads) {
  return {.rule = rule,
          .chunk = chunk,
          .heads = heads,
          .key_dim = key_dim,
          .value_dim = value_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(key_dim)),
          .eps = 1e-8f};
}

// Of one sequence: rows [begin, end) of its values of `width`.
std::vector<double> RowsOf(const Problem& problem, const std::vector<double>& values, size_t n,
                           int width, int begin, int end) {
  const int first = std::accumulate(problem.lengths.begin(), problem.lengths.begin() + n, 0);
  return {values.begin() + int64_t{first + begin} * width,
          values.begin() + int64_t{first + end} * width};
}

struct Result {
  std::vector<std::vector<float>> out;  // a sequence
  std::vector<float> state, normalizer, open;
};

class ChunkAttentionTest : public OpTest {
 protected:
  // Runs the sequences in calls of at most `piece` tokens of each, or of random lengths for 0.
  Result Run(const Problem& problem, int piece, uint32_t seed = 1) {
    const ChunkAttentionSpec& spec = problem.spec;
    const int sequences = static_cast<int>(problem.lengths.size());
    const auto zeros = [&](int64_t one_head) {
      return DeviceArray<float>(stream(),
                                std::vector<float>(problem.num_slots * spec.heads * one_head, 0));
    };
    const auto state = zeros(int64_t{spec.key_dim} * spec.value_dim),
               normalizer = zeros(spec.key_dim);
    // Rows of keys and values past the open tokens are undefined.
    const int64_t open_floats = OpenChunkFloats(spec);
    const DeviceArray<float> open(
        stream(), std::vector<float>(problem.num_slots * spec.heads * open_floats,
                                     spec.rule == ChunkRule::kSoftmax ? NAN : 0.0f));
    Result result;
    result.out.resize(sequences);
    std::mt19937 random(seed);
    std::vector<int> at(sequences, 0);
    while (at != problem.lengths) {
      std::vector<int> ends = {0}, positions;
      std::vector<double> q, k, v;
      const auto append = [](std::vector<double>& to, const std::vector<double>& rows) {
        to.insert(to.end(), rows.begin(), rows.end());
      };
      const std::vector<int> from = at;
      for (int n = 0; n < sequences; ++n) {
        const int left = problem.lengths[n] - at[n];
        const int most = piece > 0 ? piece : static_cast<int>(random() % (2 * spec.chunk + 2));
        const int end = at[n] + std::min(left, most);
        append(q, RowsOf(problem, problem.q, n, spec.heads * spec.key_dim, at[n], end));
        append(k, RowsOf(problem, problem.k, n, spec.heads * spec.key_dim, at[n], end));
        append(v, RowsOf(problem, problem.v, n, spec.heads * spec.value_dim, at[n], end));
        for (; at[n] < end; ++at[n]) positions.push_back(at[n]);
        ends.push_back(static_cast<int>(positions.size()));
      }
      const int tokens = ends.back();
      const auto q_device = Upload(tokens, spec.heads * spec.key_dim, q);
      const auto k_device = Upload(tokens, spec.heads * spec.key_dim, k);
      const auto v_device = Upload(tokens, spec.heads * spec.value_dim, v);
      const auto out = Poisoned(tokens, spec.heads * spec.value_dim);
      const DeviceArray<int> slots(stream(), problem.slots), ends_device(stream(), ends),
          positions_device(stream(), positions);
      ChunkAttention(stream(), {.spec = spec,
                                .q = q_device.view(),
                                .k = k_device.view(),
                                .v = v_device.view(),
                                .state = state.data(),
                                .normalizer = normalizer.data(),
                                .open = open.data(),
                                .positions = positions_device.data(),
                                .slots = slots.data(),
                                .cu_seqlens = ends_device.data(),
                                .cu_seqlens_host = ends.data(),
                                .num_sequences = sequences,
                                .out = out.view()});
      const std::vector<float> rows = out.Read();
      const int64_t width = int64_t{spec.heads} * spec.value_dim;
      for (int n = 0; n < sequences; ++n) {
        result.out[n].insert(result.out[n].end(), rows.begin() + ends[n] * width,
                             rows.begin() + ends[n + 1] * width);
      }
    }
    result.state = state.Read();
    result.normalizer = normalizer.Read();
    result.open = open.Read();
    return result;
  }

  void ExpectReference(const Problem& problem, const Result& actual, double slack = 1.0) {
    const ChunkAttentionSpec& spec = problem.spec;
    const size_t state_size = size_t{1} * spec.heads * spec.key_dim * spec.value_dim;
    const size_t normalizer_size = size_t{1} * spec.heads * spec.key_dim;
    for (size_t n = 0; n < problem.lengths.size(); ++n) {
      const int length = problem.lengths[n];
      const auto rows = [&](const std::vector<double>& values, int width) {
        return RowsOf(problem, values, n, spec.heads * width, 0, length);
      };
      const auto q = rows(problem.q, spec.key_dim), k = rows(problem.k, spec.key_dim);
      const auto v = rows(problem.v, spec.value_dim);
      const auto wanted = reference::ChunkAttention({spec, q, k, v});
      // bf16: one rounding of the result, and of a GPU's operands.
      const double bound = slack * (dtype() == DType::kF32 ? 5e-6 : 8e-3);
      EXPECT_LE((RelativeError<float, double>(actual.out[n], wanted.out)), bound)
          << "outputs of sequence " << n << " of " << length;
      const auto of_slot = [&](const std::vector<float>& all, size_t size) {
        return std::span<const float>(all).subspan(problem.slots[n] * size, size);
      };
      EXPECT_LE((RelativeError<float, double>(of_slot(actual.state, state_size), wanted.state)),
                bound)
          << "state of sequence " << n << " of " << length;
      EXPECT_LE((RelativeError<float, double>(of_slot(actual.normalizer, normalizer_size),
                                              wanted.normalizer)),
                bound)
          << "normalizer of sequence " << n << " of " << length;
    }
  }
};

constexpr ChunkRule kRules[] = {ChunkRule::kLinear, ChunkRule::kSoftmax};

TEST_P(ChunkAttentionTest, WholeSequencesOfAnyShape) {
  struct Shape {
    int chunk, key_dim, value_dim, heads;
  };
  for (const ChunkRule rule : kRules) {
    for (const auto [C, K, V, H] :
         {Shape{8, 16, 16, 3}, Shape{16, 32, 48, 2}, Shape{64, 64, 64, 2}, Shape{128, 128, 128, 1},
          Shape{100, 24, 40, 1}, Shape{1, 16, 16, 1}, Shape{7, 5, 3, 2}}) {
      SCOPED_TRACE(::testing::Message() << (rule == ChunkRule::kLinear ? "linear" : "softmax")
                                        << " C" << C << " K" << K << " V" << V);
      const std::vector<int> lengths = {1, C - 1, 0, C, C + 1, std::min(3 * C + 3, 300)};
      const Problem problem = RandomProblem(SpecOf(rule, C, K, V, H), dtype(), lengths, C + K);
      ExpectReference(problem, Run(problem, kUnboundPiece));
    }
  }
}

TEST_P(ChunkAttentionTest, AnyCutGivesTheWholeSequence) {
  for (const ChunkRule rule : kRules) {
    for (const int C : {1, 8, 80}) {
      const Problem problem =
          RandomProblem(SpecOf(rule, C, 32, 48, 2), dtype(), {2 * C + 3, C, 1, 3 * C + 1}, C);
      for (const int piece : {1, 0, 0, C}) {
        SCOPED_TRACE(::testing::Message() << (rule == ChunkRule::kLinear ? "linear" : "softmax")
                                          << " C" << C << " pieces of " << piece);
        ExpectReference(problem, Run(problem, piece, C + piece));
      }
    }
  }
}

// The part of a chunk that is open: its scores are few, and its state is that of no other chunk.
TEST_P(ChunkAttentionTest, ATokenAloneInTheFirstChunkGivesItsValue) {
  for (const ChunkRule rule : kRules) {
    const Problem problem = RandomProblem(SpecOf(rule, 8, 16, 16, 1), dtype(), {1}, 3);
    const Result result = Run(problem, 1);
    EXPECT_LT((RelativeError<float, double>(result.out[0], problem.v)),
              dtype() == DType::kF32 ? 1e-6 : 4e-3);
  }
}

TEST_P(ChunkAttentionTest, LargeScoresDoNotOverflow) {
  auto spec = SpecOf(ChunkRule::kSoftmax, 16, 32, 16, 1);
  spec.scale = 40.0f;  // exp(40 * 72) has no place in f32
  const Problem problem = RandomProblem(spec, dtype(), {50}, 4);
  // A score of 3000 is rounded to 1e-4, and its exponential to that part.
  const double slack = dtype() == DType::kF32 ? 40.0 : 2.0;
  ExpectReference(problem, Run(problem, kUnboundPiece), slack);
  ExpectReference(problem, Run(problem, 1), slack);
}

TEST_P(ChunkAttentionTest, NeitherCompanyNorThreadsChangeASequence) {
  if (stream().device().is_cuda()) GTEST_SKIP() << "about the CPU's promise of equal bits";
  for (const ChunkRule rule : kRules) {
    const Problem problem = RandomProblem(SpecOf(rule, 16, 32, 64, 4), dtype(), {40, 1, 100}, 5);
    const Result together = Run(problem, kUnboundPiece);
    const int threads = cpu::MaxThreads();
    for (const int count : {1, 2, 5}) {
      cpu::SetMaxThreads(count);
      EXPECT_EQ(Run(problem, kUnboundPiece).out, together.out);
    }
    cpu::SetMaxThreads(threads);
    Problem alone = problem;
    alone.lengths = {40};
    alone.slots = {problem.slots[0]};
    EXPECT_EQ(Run(alone, kUnboundPiece).out[0], together.out[0]);
  }
}

TEST_P(ChunkAttentionTest, OtherSlotsStayAsTheyAre) {
  for (const ChunkRule rule : kRules) {
    const Problem problem = RandomProblem(SpecOf(rule, 8, 16, 16, 2), dtype(), {20, 0, 9}, 6);
    const Result result = Run(problem, kUnboundPiece);
    const int64_t size = 2 * 16 * 16, open_size = 2 * OpenChunkFloats(problem.spec);
    for (int slot = 0; slot < problem.num_slots; ++slot) {
      const bool used = slot == problem.slots[0] || slot == problem.slots[2];
      const auto state = std::span(result.state).subspan(slot * size, size);
      const auto open = std::span(result.open).subspan(slot * open_size, open_size);
      const auto untouched = [](float x) { return x == 0 || std::isnan(x); };
      EXPECT_EQ(std::ranges::all_of(state, untouched), !used);
      EXPECT_EQ(std::ranges::all_of(open, untouched), !used);
    }
  }
}

FLA_INSTANTIATE_OP_TEST(ChunkAttentionTest);

TEST(ChunkAttentionContractTest, CpuRefusesBf16States) {
  Stream stream(Device{});
  ChunkAttentionArgs args;
  args.spec = SpecOf(ChunkRule::kLinear, 8, 16, 16, 1);
  args.state_dtype = DType::kBF16;
  args.q = args.k = args.v = args.out = Matrix{nullptr, DType::kF32, 0, 16, 16};
  EXPECT_THROW(ChunkAttention(stream, args), std::invalid_argument);
}

TEST(ChunkAttentionDeathTest, BrokenContractsAbortWithAMessage) {
  Stream stream(Device{});
  std::vector<float> values(64), state(1024);
  const int slots[] = {0}, cu_seqlens[] = {0, 2}, positions[] = {0, 1};
  ChunkAttentionArgs good;
  good.spec = SpecOf(ChunkRule::kLinear, 8, 16, 16, 1);
  good.q = good.k = good.v = good.out = Matrix{values.data(), DType::kF32, 2, 16, 32};
  good.state = good.normalizer = good.open = state.data();
  good.positions = positions;
  good.slots = slots;
  good.cu_seqlens = good.cu_seqlens_host = cu_seqlens;
  good.num_sequences = 1;
  ChunkAttentionArgs bad = good;
  bad.spec.chunk = 0;
  EXPECT_DEATH(ChunkAttention(stream, bad), "spec.chunk > 0");
  bad = good;
  bad.v.cols = 8;
  EXPECT_DEATH(ChunkAttention(stream, bad), "Fits.args.v");
  bad = good;
  bad.open = nullptr;
  EXPECT_DEATH(ChunkAttention(stream, bad), "args.open");
  const int too_long[] = {0, 3};
  bad = good;
  bad.cu_seqlens = bad.cu_seqlens_host = too_long;
  EXPECT_DEATH(ChunkAttention(stream, bad), "<= args.out.rows");
}

}  // namespace
}  // namespace fla::testing
