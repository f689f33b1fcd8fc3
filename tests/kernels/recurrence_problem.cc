#include "tests/kernels/recurrence_problem.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>

#include "kernels/reference/recurrence.h"
#include "tests/testing/compare.h"
#include "tests/testing/devices.h"

namespace fla::testing {
namespace {

// Of projections.
constexpr float kNormEps = 1e-6f, kBetaScale = 2.0f;
constexpr float kNormalizer = 16.0f, kClampMin = -2.0f, kLowerBound = -5.0f;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
constexpr int kGap = 8;  // elements between the rows on the device

double Round(double value, DType dtype) {
  const float rounded = static_cast<float>(value);
  return dtype == DType::kBF16 ? static_cast<float>(BFloat16(rounded)) : rounded;
}

float RandomLogDecay(Gates gates, std::mt19937& random) {
  const float mild = -std::uniform_real_distribution<float>(0.0f, 0.2f)(random);
  switch (gates) {
    case Gates::kMild:
      return mild;
    case Gates::kMixed: {
      const float choices[] = {0.0f, mild, mild, mild, mild, mild, -5.0f, -5.0f, -50.0f, -1e4f};
      return choices[random() % std::size(choices)];
    }
    case Gates::kStrong:
      return random() % 2 == 0 ? -50.0f : -1e4f;
  }
  return 0.0f;
}

// Values as a strided matrix on the device.
class DeviceRows {
 public:
  DeviceRows(Stream& stream, DType dtype, int64_t rows, int64_t cols)
      : dtype_(dtype), rows_(rows), cols_(cols), stride_(cols + kGap) {
    bytes_.resize(std::max<size_t>(1, rows * stride_ * SizeOf(dtype)));
    for (int64_t i = 0; i < rows * stride_; ++i) Set(i, kPoison);
    buffer_ = Buffer(stream.device(), bytes_.size());
    stream.CopyToDevice(buffer_.data(), bytes_.data(), bytes_.size());
  }

  void Fill(Stream& stream, const std::vector<double>& values) {
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t col = 0; col < cols_; ++col) {
        Set(row * stride_ + col, static_cast<float>(values[row * cols_ + col]));
      }
    }
    stream.CopyToDevice(buffer_.data(), bytes_.data(), bytes_.size());
  }

  std::vector<float> Read(Stream& stream) {
    const std::vector<char> before = bytes_;
    stream.CopyToHost(bytes_.data(), buffer_.data(), bytes_.size());
    stream.Synchronize();
    std::vector<float> values;
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t col = 0; col < cols_; ++col) values.push_back(Get(row * stride_ + col));
      const size_t gap = (row * stride_ + cols_) * SizeOf(dtype_);
      EXPECT_EQ(std::memcmp(&before[gap], &bytes_[gap], kGap * SizeOf(dtype_)), 0)
          << "wrote between the rows, after row " << row;
    }
    return values;
  }

  Matrix view() const { return {buffer_.data(), dtype_, rows_, cols_, stride_}; }

 private:
  void Set(int64_t index, float value) {
    if (dtype_ == DType::kBF16) {
      const BFloat16 rounded(value);
      std::memcpy(&bytes_[index * 2], &rounded, 2);
    } else {
      std::memcpy(&bytes_[index * 4], &value, 4);
    }
  }
  float Get(int64_t index) const {
    if (dtype_ == DType::kBF16) {
      BFloat16 value;
      std::memcpy(&value, &bytes_[index * 2], 2);
      return static_cast<float>(value);
    }
    float value;
    std::memcpy(&value, &bytes_[index * 4], 4);
    return value;
  }

  DType dtype_;
  int64_t rows_, cols_, stride_;
  std::vector<char> bytes_;
  Buffer buffer_;
};

template <typename T>
Buffer ToDevice(Stream& stream, const std::vector<T>& values) {
  Buffer buffer(stream.device(), std::max<size_t>(1, values.size()) * sizeof(T));
  if (!values.empty()) {
    stream.CopyToDevice(buffer.data(), values.data(), values.size() * sizeof(T));
  }
  return buffer;
}

// Projections on a device.
class DeviceProjections {
 public:
  DeviceProjections(Stream& stream, const RecurrenceProblem& problem)
      : from_(*problem.projections),
        tokens_(problem.num_tokens()),
        gates_(stream, problem.dtype, tokens_, Columns(from_.gates)),
        beta_(stream, problem.dtype, tokens_, Columns(from_.beta)),
        a_log_(ToDevice(stream, from_.a_log)),
        dt_bias_(ToDevice(stream, from_.dt_bias)) {
    gates_.Fill(stream, from_.gates);
    beta_.Fill(stream, from_.beta);
  }

  // In the place of log_decay and beta.
  void AddTo(RecurrenceArgs& args) const {
    RecurrenceProjections& projections = args.projections;
    projections.q_norm = projections.k_norm = HeadNorm::kL2;
    projections.norm_eps = kNormEps;
    if (!from_.gates.empty()) {
      projections.log_decay = {.kind = from_.kind,
                               .x = gates_.view(),
                               .heads = args.spec.decay_heads,
                               .a_log = a_log_.as<float>(),
                               .dt_bias = dt_bias_.as<float>(),
                               .normalizer = kNormalizer,
                               .clamp_min = kClampMin,
                               .lower_bound = kLowerBound};
      args.log_decay = nullptr;
    }
    if (!from_.beta.empty()) {
      projections.beta = beta_.view();
      projections.beta_scale = kBetaScale;
      args.beta = nullptr;
    }
  }

 private:
  int64_t Columns(const std::vector<double>& rows) const {
    return tokens_ > 0 ? static_cast<int64_t>(rows.size()) / tokens_ : 0;
  }

  const RecurrenceProblem::Projections& from_;
  const int tokens_;
  DeviceRows gates_, beta_;
  const Buffer a_log_, dt_bias_;
};

enum class Schedule { kPrefill, kStep };

RecurrenceResult Run(Device device, Schedule schedule, const RecurrenceProblem& problem) {
  const RecurrenceSpec& spec = problem.spec;
  const auto& from = problem.projections;
  Stream stream(device);
  const int tokens = problem.num_tokens();
  DeviceRows q(stream, problem.dtype, tokens, spec.q_heads * spec.key_dim);
  DeviceRows k(stream, problem.dtype, tokens, spec.k_heads * spec.key_dim);
  DeviceRows v(stream, problem.dtype, tokens, spec.v_heads * spec.value_dim);
  DeviceRows out(stream, problem.dtype, tokens, spec.heads * spec.value_dim);
  q.Fill(stream, from ? from->q : problem.q);
  k.Fill(stream, from ? from->k : problem.k);
  v.Fill(stream, problem.v);
  const Buffer log_decay = ToDevice(stream, problem.log_decay);
  const Buffer beta = ToDevice(stream, problem.beta);
  const Buffer state = ToDevice(stream, problem.state);
  const Buffer slots = ToDevice(stream, problem.slots);
  const std::vector<int> cu_seqlens_host = problem.cu_seqlens();
  const Buffer cu_seqlens = ToDevice(stream, cu_seqlens_host);

  RecurrenceArgs args;
  args.spec = spec;
  args.q = q.view();
  args.k = k.view();
  args.v = v.view();
  args.log_decay = spec.decay == Decay::kNone ? nullptr : log_decay.as<float>();
  args.beta = spec.update == Update::kAdditive ? nullptr : beta.as<float>();
  args.state = state.data();
  args.slots = slots.as<int>();
  args.cu_seqlens = cu_seqlens.as<int>();
  args.cu_seqlens_host = cu_seqlens_host.data();
  args.num_sequences = static_cast<int>(problem.slots.size());
  args.out = out.view();
  std::optional<DeviceProjections> projections;
  if (from) projections.emplace(stream, problem).AddTo(args);
  if (schedule == Schedule::kPrefill) {
    ChunkedPrefill(stream, args);
  } else {
    args.cu_seqlens = args.cu_seqlens_host = nullptr;
    RecurrentStep(stream, args);
  }

  RecurrenceResult result;
  result.out = out.Read(stream);
  result.state.resize(problem.state.size());
  stream.CopyToHost(result.state.data(), state.data(), result.state.size() * sizeof(float));
  stream.Synchronize();
  return result;
}

}  // namespace

RecurrenceBounds BoundsFor(Device device, DType dtype) {
  // f32: rounding of sums over K and a chunk. bf16: `out` is rounded once, to 8 bits; a GPU also
  // rounds the operands of its matrix products.
  struct Row {
    Device::Kind kind;
    DType dtype;
    RecurrenceBounds bounds;
  };
  static constexpr Row kTable[] = {
      {Device::Kind::kCpu, DType::kF32, {5e-6, 5e-6}},
      {Device::Kind::kCpu, DType::kBF16, {4e-3, 5e-6}},
      {Device::Kind::kCuda, DType::kF32, {1e-5, 1e-5}},
      {Device::Kind::kCuda, DType::kBF16, {8e-3, 8e-3}},
  };
  for (const Row& row : kTable) {
    if (row.kind == device.kind && row.dtype == dtype) return row.bounds;
  }
  return {0, 0};
}

std::vector<Device> RecurrenceDevices() {
  std::vector<Device> devices;
  for (const std::string& name : Devices()) devices.push_back(ParseDevice(name));
  return devices;
}

std::vector<Cell> AllCells() {
  std::vector<Cell> cells;
  for (Decay decay : {Decay::kNone, Decay::kPerHead, Decay::kPerToken, Decay::kPerChannel}) {
    for (Update update : {Update::kAdditive, Update::kDelta}) cells.push_back({decay, update});
  }
  return cells;
}

std::string NameOf(Cell cell) {
  const char* const decays[] = {"NoDecay", "PerHead", "PerToken", "PerChannel"};
  return std::string(decays[static_cast<int>(cell.decay)]) +
         (cell.update == Update::kDelta ? "Delta" : "Additive");
}

RecurrenceSpec SpecOf(Cell cell, int key_dim, int value_dim, int heads) {
  RecurrenceSpec spec;
  spec.decay = cell.decay;
  spec.update = cell.update;
  spec.key_dim = key_dim;
  spec.value_dim = value_dim;
  spec.heads = spec.q_heads = spec.k_heads = spec.v_heads = spec.decay_heads = heads;
  spec.scale = 1.0f / std::sqrt(static_cast<float>(key_dim));
  return spec;
}

int RecurrenceProblem::num_tokens() const {
  return std::accumulate(lengths.begin(), lengths.end(), 0);
}

std::vector<int> RecurrenceProblem::cu_seqlens() const {
  std::vector<int> sums = {0};
  for (int length : lengths) sums.push_back(sums.back() + length);
  return sums;
}

RecurrenceProblem RandomProblem(const RecurrenceSpec& spec, DType dtype, std::vector<int> lengths,
                                uint32_t seed, Gates gates, float max_beta) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  RecurrenceProblem problem;
  problem.spec = spec;
  problem.dtype = dtype;
  problem.lengths = std::move(lengths);
  problem.num_slots = static_cast<int>(problem.lengths.size()) + 2;
  problem.slots.resize(problem.num_slots);
  std::iota(problem.slots.begin(), problem.slots.end(), 0);
  std::shuffle(problem.slots.begin(), problem.slots.end(), random);
  problem.slots.resize(problem.lengths.size());

  const int tokens = problem.num_tokens();
  const auto draw = [&](int rows, int dim, bool unit_length) {
    std::vector<double> values(rows * dim);
    for (int row = 0; row < rows; ++row) {
      double squares = 0;
      for (int i = 0; i < dim; ++i) {
        values[row * dim + i] = normal(random);
        squares += values[row * dim + i] * values[row * dim + i];
      }
      for (int i = 0; i < dim; ++i) {
        double& value = values[row * dim + i];
        value = Round(unit_length ? value / std::sqrt(squares) : value, dtype);
      }
    }
    return values;
  };
  problem.q = draw(tokens * spec.q_heads, spec.key_dim, false);
  problem.k = draw(tokens * spec.k_heads, spec.key_dim, true);
  problem.v = draw(tokens * spec.v_heads, spec.value_dim, false);
  size_t decays = 0;
  if (spec.decay == Decay::kPerHead) decays = spec.heads;
  if (spec.decay == Decay::kPerToken) decays = tokens * spec.decay_heads;
  if (spec.decay == Decay::kPerChannel) decays = tokens * spec.decay_heads * spec.key_dim;
  problem.log_decay.resize(decays);
  for (float& value : problem.log_decay) value = RandomLogDecay(gates, random);
  if (spec.update == Update::kDelta) {
    problem.beta.resize(tokens * spec.heads);
    std::uniform_real_distribution<float> uniform(0.0f, max_beta);
    for (float& value : problem.beta) value = uniform(random);
  }
  problem.state.resize(size_t{1} * problem.num_slots * spec.heads * spec.key_dim * spec.value_dim);
  for (float& value : problem.state) value = static_cast<float>(0.3 * normal(random));
  return problem;
}

RecurrenceProblem Projected(RecurrenceProblem problem, GateKind kind, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const RecurrenceSpec& spec = problem.spec;
  const auto draw = [&](size_t count, double deviation) {
    std::vector<double> values(count);
    for (double& value : values) value = Round(deviation * normal(random), problem.dtype);
    return values;
  };
  RecurrenceProblem::Projections from;
  from.kind = kind;
  // Rows of lengths from 2^-5 to 2^6 times theirs, then divided by them.
  const auto stretch = [&](std::vector<double>& values) {
    std::vector<double> stretched(values.size());
    for (size_t row = 0; row < values.size(); row += spec.key_dim) {
      const double factor = std::exp2(static_cast<int>(random() % 12) - 5);
      double squares = 0;
      for (int i = 0; i < spec.key_dim; ++i) {
        const double value = stretched[row + i] = Round(factor * values[row + i], problem.dtype);
        squares += value * value;
      }
      for (int i = 0; i < spec.key_dim; ++i) {
        values[row + i] = stretched[row + i] / std::sqrt(squares + kNormEps);
      }
    }
    return stretched;
  };
  from.q = stretch(problem.q);
  from.k = stretch(problem.k);

  if (spec.decay == Decay::kPerToken || spec.decay == Decay::kPerChannel) {
    const size_t columns = spec.decay_heads * (spec.decay == Decay::kPerChannel ? spec.key_dim : 1);
    from.gates = draw(problem.log_decay.size(), 3.0);
    // From a memory of 10^8 tokens to none, by turns.
    for (size_t i = 0; i < from.gates.size(); i += 61) from.gates[i] = i % 2 == 0 ? -20.0 : 90.0;
    for (int head = 0; head < spec.decay_heads; ++head) {
      from.a_log.push_back(static_cast<float>(normal(random)));
    }
    for (size_t i = 0; i < columns; ++i) {
      from.dt_bias.push_back(static_cast<float>(2.0 * normal(random) - 3.0));
    }
    const auto softplus = [](double x) {
      return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
    };
    for (size_t i = 0; i < from.gates.size(); ++i) {
      const size_t column = i % columns;
      const double x = from.gates[i] + from.dt_bias[column];
      const double rate = std::exp(double{from.a_log[column * spec.decay_heads / columns]});
      const double decay = kind == GateKind::kSoftplus ? -rate * softplus(x)
                           : kind == GateKind::kBoundedSigmoid
                               ? kLowerBound / (1.0 + std::exp(-rate * x))
                               : std::max<double>(-softplus(-x) / kNormalizer, kClampMin);
      problem.log_decay[i] = static_cast<float>(decay);
    }
  }
  from.beta = draw(problem.beta.size(), 1.0);
  for (size_t i = 0; i < from.beta.size(); ++i) {
    problem.beta[i] = static_cast<float>(kBetaScale / (1.0 + std::exp(-from.beta[i])));
  }
  problem.projections = std::move(from);
  return problem;
}

RecurrenceProblem Part(const RecurrenceProblem& problem, const std::vector<int>& sequences,
                       int begin, int end, const std::vector<float>& state) {
  RecurrenceProblem part = problem;
  part.state = state;
  part.lengths.clear();
  part.slots.clear();
  for (auto* values : {&part.q, &part.k, &part.v}) values->clear();
  part.beta.clear();
  const bool row_decay = problem.spec.decay >= Decay::kPerToken;
  if (row_decay) part.log_decay.clear();
  const int tokens = std::max(1, problem.num_tokens());
  const std::vector<int> first = problem.cu_seqlens();
  for (int n : sequences) {
    const int from = first[n] + std::min(begin, problem.lengths[n]);
    const int to = first[n] + std::min(end, problem.lengths[n]);
    part.lengths.push_back(to - from);
    part.slots.push_back(problem.slots[n]);
    const auto copy = [&](const auto& all, auto& some) {
      const size_t width = all.size() / tokens;
      some.insert(some.end(), all.begin() + from * width, all.begin() + to * width);
    };
    copy(problem.q, part.q);
    copy(problem.k, part.k);
    copy(problem.v, part.v);
    copy(problem.beta, part.beta);
    if (row_decay) copy(problem.log_decay, part.log_decay);
  }
  return part;
}

bool TakesProjections(Device device, const RecurrenceProblem& problem) {
  Stream stream(device);
  const RecurrenceSpec& spec = problem.spec;
  RecurrenceArgs args;
  args.spec = spec;
  const DeviceRows q(stream, problem.dtype, problem.num_tokens(), spec.q_heads * spec.key_dim);
  args.q = q.view();
  const DeviceProjections projections(stream, problem);
  projections.AddTo(args);
  return TakesProjections(stream, args);
}

RecurrenceResult RunPrefill(Device device, const RecurrenceProblem& problem) {
  return Run(device, Schedule::kPrefill, problem);
}

RecurrenceResult RunStep(Device device, const RecurrenceProblem& problem) {
  return Run(device, Schedule::kStep, problem);
}

RecurrenceResult RunSteps(Device device, const RecurrenceProblem& problem) {
  const size_t width = problem.spec.heads * problem.spec.value_dim;
  const std::vector<int> first = problem.cu_seqlens();
  RecurrenceResult result;
  result.out.resize(problem.num_tokens() * width);
  result.state = problem.state;
  const int longest = problem.lengths.empty() ? 0 : std::ranges::max(problem.lengths);
  for (int t = 0; t < longest; ++t) {
    std::vector<int> alive;
    for (size_t n = 0; n < problem.lengths.size(); ++n) {
      if (problem.lengths[n] > t) alive.push_back(static_cast<int>(n));
    }
    const RecurrenceResult step = RunStep(device, Part(problem, alive, t, t + 1, result.state));
    result.state = step.state;
    for (size_t i = 0; i < alive.size(); ++i) {
      std::copy_n(&step.out[i * width], width, &result.out[(first[alive[i]] + t) * width]);
    }
  }
  return result;
}

RecurrenceResult RunReference(const RecurrenceProblem& problem) {
  const std::vector<double> log_decay(problem.log_decay.begin(), problem.log_decay.end());
  const std::vector<double> beta(problem.beta.begin(), problem.beta.end());
  const std::vector<int> cu_seqlens = problem.cu_seqlens();
  std::vector<double> state(problem.state.begin(), problem.state.end());
  const std::vector<double> out = reference::Recurrence(
      {problem.spec, problem.q, problem.k, problem.v, log_decay, beta, problem.slots, cu_seqlens},
      state);
  return {{out.begin(), out.end()}, {state.begin(), state.end()}};
}

void ExpectClose(const RecurrenceProblem& problem, const RecurrenceResult& actual,
                 const RecurrenceResult& wanted, RecurrenceBounds bounds) {
  const auto worst_of = [](const std::vector<float>& a, const std::vector<float>& w,
                           const std::vector<size_t>& ends, size_t& where) {
    double worst = a.size() == w.size() ? 0 : INFINITY;
    for (size_t i = 0, begin = 0; i < ends.size() && worst != INFINITY; begin = ends[i++]) {
      const size_t count = ends[i] - begin;
      const double error =
          RelativeError(std::span(a).subspan(begin, count), std::span(w).subspan(begin, count));
      if (error > worst) worst = error, where = i;
    }
    return worst;
  };
  std::vector<size_t> sequence_ends, head_ends;
  for (int sum : problem.cu_seqlens()) {
    sequence_ends.push_back(size_t{1} * sum * problem.spec.heads * problem.spec.value_dim);
  }
  const size_t head_size = size_t{1} * problem.spec.key_dim * problem.spec.value_dim;
  for (size_t end = head_size; end <= wanted.state.size(); end += head_size) {
    head_ends.push_back(end);
  }
  size_t where = 0;
  const double out_error = worst_of(actual.out, wanted.out, sequence_ends, where);
  EXPECT_LE(out_error, bounds.out) << "outputs of sequence " << static_cast<int>(where) - 1;
  const double state_error = worst_of(actual.state, wanted.state, head_ends, where);
  EXPECT_LE(state_error, bounds.state)
      << "state of slot " << where / problem.spec.heads << " head " << where % problem.spec.heads;
}

void ExpectSame(const std::vector<float>& actual, const std::vector<float>& wanted,
                const char* what) {
  ASSERT_EQ(actual.size(), wanted.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &wanted[i], sizeof(float)), 0)
        << what << " at " << i << ": wanted " << wanted[i] << ", got " << actual[i];
  }
}

}  // namespace fla::testing
