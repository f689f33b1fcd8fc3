// Compares a decode step as one kernel (kernels/cuda/step_program.h) with the same ops one by one,
// on random models: what a step leaves in the residual, the logits and the states after several
// steps, alone and with another model's steps on another stream. Exit code 1 if any case is out of
// bounds, 77 where there is no GPU that has the kernel.
//
//   step_program_check [cases] [seed] [small]
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "bench/cuda/recurrence_inputs.h"
#include "bench/cuda/relative_error.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/step_program.h"
#include "kernels/fp8.h"

namespace fla::cuda::bench {
namespace {

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

constexpr int kSteps = 3;
// Both sides round to bf16, at places of their own. Where neither q nor k is normalised, an output
// may nearly vanish, and OutputNorm makes its error large: a model of both sides that differ by
// nothing but rounding came to 0.126 in 120 cases, and to 0.027 where they are normalised.
constexpr double kBound = 4e-2, kBoundWithoutNorms = 2e-1;

template <typename T>
constexpr DType kTypeOf = sizeof(T) == 4 ? DType::kF32 : DType::kBF16;

// grid (rows), block (any)
__global__ void RoundToFp8Kernel(__nv_bfloat162* weight, uint16_t* rounded, float* scales,
                                 int pairs) {
  const float scale = exp2f(-10.0f - blockIdx.x % 3);
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  const int64_t row = int64_t{blockIdx.x} * pairs;
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    const float2 pair = __bfloat1622float2(weight[row + i]);
    const uint32_t bits = PackFp8(__floats2half2_rn(pair.x / scale, pair.y / scale));
    const float2 back = __half22float2(UnpackFp8(bits));
    rounded[row + i] = static_cast<uint16_t>(bits);
    weight[row + i] = __floats2bfloat162_rn(back.x * scale, back.y * scale);
  }
}

// Device memory of one case, filled with normal numbers.
class Arena {
 public:
  explicit Arena(uint32_t seed) : seed_(seed) {}

  template <typename T>
  fla::Matrix Random(int64_t rows, int64_t cols, float deviation, float mean = 0) {
    const size_t count = static_cast<size_t>(rows) * cols;
    void* const data = Take(count * sizeof(T));
    FillNormalKernel<<<static_cast<unsigned>((count + 255) / 256), 256>>>(
        static_cast<T*>(data), static_cast<int64_t>(count), mean, deviation, 1e30f, ++seed_);
    return {data, kTypeOf<T>, rows, cols, cols};
  }
  template <typename T>
  float* Floats(const T& matrix) {
    return static_cast<float*>(matrix.data);
  }
  // Of a bf16 weight its numbers as e4m3 times a power of two, to which it is rounded.
  fla::Matrix RoundToFp8(const fla::Matrix& weight) {
    fla::Matrix rounded = weight;
    rounded.dtype = DType::kF8E4M3;
    rounded.data = Take(weight.rows * weight.cols);
    rounded.scales = static_cast<float*>(Take(weight.rows * sizeof(float)));
    RoundToFp8Kernel<<<static_cast<unsigned>(weight.rows), 256>>>(
        static_cast<__nv_bfloat162*>(weight.data), static_cast<uint16_t*>(rounded.data),
        const_cast<float*>(rounded.scales), static_cast<int>(weight.cols) / 2);
    return rounded;
  }
  int* Integers(const std::vector<int>& values) {
    void* const data = Take(values.size() * sizeof(int));
    Upload(data, values.data(), values.size() * sizeof(int));
    return static_cast<int*>(data);
  }

 private:
  void* Take(size_t bytes) {
    arrays_.emplace_back(bytes);
    return arrays_.back().data();
  }
  std::deque<DeviceArray<char>> arrays_;
  uint32_t seed_;
};

struct Shape {
  int layers, hidden, inner, vocabulary;
  int heads, k_heads, key_dim, value_dim;
  int width;
  bool delta, gated, rotary;
  Decay decay;
  int decay_rank, gate_rank;  // of low-rank maps, or 0
  HeadNorm norm;
  bool fp8;  // the layers' projections are e4m3, where their columns allow it

  // Decays per channel without a rate of their own are their keys'.
  bool HasKeyDecays() const { return decay == Decay::kPerChannel && !delta; }
  double Bound() const { return delta || norm == HeadNorm::kL2 ? kBound : kBoundWithoutNorms; }
  int DecayHeads() const { return HasKeyDecays() ? k_heads : heads; }
  int DecayChannels() const {
    return decay == Decay::kPerToken     ? DecayHeads()
           : decay == Decay::kPerChannel ? DecayHeads() * key_dim
                                         : 0;
  }
};

Shape RandomShape(std::mt19937& random, bool small) {
  const auto pick = [&](std::initializer_list<int> choices) {
    return *(choices.begin() + random() % choices.size());
  };
  Shape s = {};
  s.layers = pick({1, 2, 3});
  s.hidden = small ? pick({64, 128, 192}) : pick({512, 1024, 1088, 2048});
  s.inner = small ? pick({128, 192}) : pick({1024, 1408, 2816, 5632});
  s.vocabulary = small ? pick({96, 1000}) : pick({1000, 32000});
  s.k_heads = pick({1, 2, 4});
  s.heads = s.k_heads * pick({1, 1, 2});
  s.key_dim = pick({64, 128, 256});
  s.value_dim = pick({32, 64, 128, 256, 512});
  s.width = pick({0, 3, 4, 4});
  s.delta = pick({0, 1}) != 0;
  s.decay = std::array{Decay::kNone, Decay::kPerHead, Decay::kPerToken,
                       Decay::kPerChannel}[pick({0, 1, 2, 2, 3, 3, 3})];
  s.gated = pick({0, 1, 1}) != 0;
  s.rotary = pick({0, 0, 1}) != 0;
  s.norm = pick({0, 1}) != 0 ? HeadNorm::kL2 : HeadNorm::kNone;
  if (s.decay == Decay::kPerChannel) s.decay_rank = pick({0, 16, s.key_dim == 256 ? 64 : 128});
  if (s.gated) s.gate_rank = pick({0, 0, 16, 128});
  s.fp8 = pick({0, 1}) != 0;
  return s;
}

std::string NameOf(const Shape& s) {
  char text[256];
  std::snprintf(
      text, sizeof text,
      "layers %d D %d inner %d vocabulary %d H %d/%d K %d V %d width %d decay %d/%d gated %d/%d "
      "delta %d rotary %d fp8 %d",
      s.layers, s.hidden, s.inner, s.vocabulary, s.heads, s.k_heads, s.key_dim, s.value_dim,
      s.width, static_cast<int>(s.decay), s.decay_rank, s.gated, s.gate_rank, s.delta, s.rotary,
      s.fp8);
  return text;
}

struct Model {
  std::vector<StepOp> ops;
  std::vector<StepOp> one_by_one;    // the same with weights in bf16
  std::vector<fla::Matrix> results;  // all that a step changes and that is read again
};

Model RandomModel(const Shape& s, Arena& arena) {
  Model model;
  const int rows = 1, q_columns = s.k_heads * s.key_dim, v_columns = s.heads * s.value_dim;
  const int channels = 2 * q_columns + v_columns, slots = 3;
  const int decay_columns = s.decay_rank > 0 ? s.decay_rank : s.DecayChannels();
  const int gate_columns = s.gate_rank > 0 ? s.gate_rank : s.gated ? v_columns : 0;
  const int beta_columns = s.delta ? s.heads : 0;
  // Single values last, so that all before them begin on pairs.
  int packed_columns = channels + gate_columns + decay_columns + beta_columns;
  packed_columns += packed_columns % 8 == 0 ? 0 : 8 - packed_columns % 8;

  const int* const slots_of_rows = arena.Integers({1});
  const int* const positions_of_rows = arena.Integers({38});
  const fla::Matrix residual = arena.Random<float>(rows, s.hidden, 1);
  const fla::Matrix packed = arena.Random<__nv_bfloat16>(rows, packed_columns, 0);
  const fla::Matrix prepared = arena.Random<__nv_bfloat16>(rows, channels, 0);
  const fla::Matrix mixed = arena.Random<__nv_bfloat16>(rows, v_columns, 0);
  const fla::Matrix inner = arena.Random<__nv_bfloat16>(rows, s.inner, 0);
  const fla::Matrix logits = arena.Random<float>(rows, s.vocabulary, 0);
  const fla::Matrix decays = arena.Random<float>(rows, std::max(s.DecayChannels(), 1), 0);
  const fla::Matrix gates = arena.Random<__nv_bfloat16>(rows, v_columns, 0);
  const fla::Matrix betas = arena.Random<float>(rows, s.heads, 0);
  const auto weight = [&](int out, int in) {
    return arena.Random<__nv_bfloat16>(out, in, 1 / std::sqrt(static_cast<float>(in)));
  };
  const auto norm = [&](int size) { return arena.Floats(arena.Random<float>(1, size, 0.2f, 1)); };
  const auto linear = [&](Input input, fla::Matrix x, fla::Matrix w, Output output,
                          fla::Matrix out) {
    DecodeLinearArgs args;
    args.input = input;
    args.x = x;
    args.eps = 1e-6f;
    args.weight = w;
    args.output = output;
    args.out = out;
    if (input == Input::kNormed) args.norm_weight = norm(static_cast<int>(x.cols));
    return args;
  };

  for (int layer = 0; layer < s.layers; ++layer) {
    model.ops.emplace_back(
        linear(Input::kNormed, residual, weight(packed_columns, s.hidden), Output::kStore, packed));
    PrepareStepArgs prepare;
    const auto split = [&](const fla::Matrix& all, fla::Matrix& q, fla::Matrix& k, fla::Matrix& v) {
      q = all.Columns(0, q_columns), k = all.Columns(q_columns, q_columns);
      v = all.Columns(2 * q_columns, v_columns);
    };
    split(packed, prepare.q, prepare.k, prepare.v);
    split(prepared, prepare.q_out, prepare.k_out, prepare.v_out);
    prepare.head_k_dim = s.key_dim;
    prepare.head_v_dim = s.value_dim;
    prepare.width = s.width;
    if (s.width > 0) {
      const fla::Matrix state = arena.Random<float>(slots, int64_t{channels} * (s.width - 1), 1);
      prepare.taps = arena.Floats(arena.Random<float>(channels, s.width, 0.5f));
      prepare.state = arena.Floats(state);
      prepare.slot_stride = state.cols;
      model.results.push_back(state);
    }
    prepare.slots = slots_of_rows;
    prepare.qk_activation = s.norm == HeadNorm::kL2 ? Activation::kSilu : Activation::kIdentity;
    prepare.v_activation = s.width > 0 ? Activation::kSilu : Activation::kIdentity;
    prepare.q_norm = prepare.k_norm = s.delta ? HeadNorm::kL2 : s.norm;
    prepare.norm_eps = 1e-6f;
    prepare.rotary_base = s.rotary ? 10000.0f : 0.0f;
    prepare.positions = positions_of_rows;

    RecurrenceParams p = {};
    p.key_dim = s.key_dim, p.value_dim = s.value_dim, p.heads = s.heads;
    p.q = prepare.q_out.data, p.k = prepare.k_out.data, p.v = prepare.v_out.data;
    p.q_stride = p.k_stride = p.v_stride = prepared.stride;
    p.out = mixed.data, p.out_stride = mixed.stride;
    p.slots = slots_of_rows;
    p.num_sequences = rows;
    p.q_group = p.k_group = s.heads / s.k_heads;
    p.v_group = 1;
    p.decay_heads = s.DecayHeads();
    p.decay_group = s.heads / p.decay_heads;
    p.decay = s.decay;
    p.scale = 1 / std::sqrt(static_cast<float>(s.key_dim));
    p.aligned_rows = p.paired_out = p.aligned_out = true;
    int column = channels;
    fla::Matrix gate;
    if (s.gated) {
      gate = packed.Columns(column, gate_columns);
      column += gate_columns;
      if (s.gate_rank > 0) {
        prepare.gate_x = gate;
        prepare.gate_out = gate = gates;
        prepare.gate_map = {weight(v_columns, s.gate_rank),
                            arena.Floats(arena.Random<float>(1, v_columns, 0.5f))};
      }
    }
    if (s.DecayChannels() > 0) {
      prepare.decay.x = packed.Columns(column, decay_columns);
      column += decay_columns;
      prepare.decay.heads = s.DecayHeads();
      if (s.HasKeyDecays()) {
        prepare.decay.kind = GateKind::kLogSigmoid;
        prepare.decay.normalizer = 16;
      } else {
        prepare.decay.kind = GateKind::kSoftplus;
        prepare.decay.a_log = arena.Floats(arena.Random<float>(1, s.heads, 0.5f));
        prepare.decay.dt_bias = arena.Floats(arena.Random<float>(1, s.DecayChannels(), 0.5f));
      }
      if (s.decay_rank > 0) {
        prepare.decay_map.weight = weight(s.DecayChannels(), s.decay_rank);
        if (s.HasKeyDecays()) {
          prepare.decay_map.bias = arena.Floats(arena.Random<float>(1, s.DecayChannels(), 0.5f));
        }
      }
      prepare.decay.out = arena.Floats(decays);
      p.log_decay = prepare.decay.out;
    } else if (s.decay == Decay::kPerHead) {
      p.log_decay = arena.Floats(arena.Random<float>(1, s.heads, 0.02f, -0.1f));
    }
    if (s.delta) {
      prepare.beta = packed.Columns(column, s.heads);
      prepare.beta_out = arena.Floats(betas);
      p.beta = prepare.beta_out;
    }
    const fla::Matrix state =
        arena.Random<float>(slots, int64_t{s.heads} * s.key_dim * s.value_dim, 0.3f);
    p.state = state.data;
    model.results.push_back(state);
    model.ops.emplace_back(prepare);
    model.ops.emplace_back(StepRecurrence{p, DType::kBF16, {StepKernel::kAny, 32}});

    DecodeLinearArgs out =
        linear(Input::kHeadsNormed, mixed, weight(s.hidden, v_columns), Output::kAdd, residual);
    out.head_dim = s.value_dim;
    out.norm_weight = norm(s.value_dim);
    out.gate = gate;
    model.ops.emplace_back(out);
    model.ops.emplace_back(
        linear(Input::kNormed, residual, weight(2 * s.inner, s.hidden), Output::kSwiGlu, inner));
    model.ops.emplace_back(
        linear(Input::kPlain, inner, weight(s.hidden, s.inner), Output::kAdd, residual));
  }
  model.ops.emplace_back(
      linear(Input::kNormed, residual, weight(s.vocabulary, s.hidden), Output::kStore, logits));
  model.results.push_back(residual);
  model.results.push_back(logits);
  model.one_by_one = model.ops;
  for (StepOp& op : std::span(model.ops).first(s.fp8 ? model.ops.size() - 1 : 0)) {
    auto* const linear = std::get_if<DecodeLinearArgs>(&op);
    if (linear != nullptr && linear->weight.cols % kFp8Run == 0) {
      linear->weight = arena.RoundToFp8(linear->weight);
    }
  }
  return model;
}

std::vector<float> Download(const fla::Matrix& matrix) {
  std::vector<float> host(matrix.rows * matrix.cols);
  Check(cudaMemcpy(host.data(), matrix.data, host.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "download");
  return host;
}
void Restore(const fla::Matrix& matrix, const std::vector<float>& host) {
  Upload(matrix.data, host.data(), host.size() * sizeof(float));
}

void RunOneByOne(const Model& model) {
  for (const StepOp& op : model.one_by_one) {
    if (const auto* const linear = std::get_if<DecodeLinearArgs>(&op)) {
      if (!LaunchDecodeLinear(*linear, nullptr, false)) std::exit(2);
    } else if (const auto* const prepare = std::get_if<PrepareStepArgs>(&op)) {
      if (!LaunchPrepareStep(*prepare, nullptr, false)) std::exit(2);
    } else {
      const auto& recurrence = std::get<StepRecurrence>(op);
      LaunchRecurrent(recurrence.params, recurrence.dtype, recurrence.plan, nullptr, false);
    }
  }
}

// A model, its program, and what its steps should leave.
struct Case {
  Case(const Shape& shape, uint32_t seed)
      : shape(shape),
        arena(seed),
        model(RandomModel(shape, arena)),
        program(StepProgram::Compile(model.ops, {Device::Kind::kCuda, 0}, Multiprocessors(),
                                     /*least_bytes=*/0)) {
    if (!program) return;
    program->Upload(nullptr);
    for (const fla::Matrix& matrix : model.results) before.push_back(Download(matrix));
    for (int step = 0; step < kSteps; ++step) RunOneByOne(model);
    for (const fla::Matrix& matrix : model.results) wanted.push_back(Download(matrix));
  }

  void Reset() const {
    for (size_t i = 0; i < before.size(); ++i) Restore(model.results[i], before[i]);
  }
  // The largest difference of a result, in bounds; prints those beyond.
  double Compare(const char* how) const {
    double worst = 0;
    std::string bad;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double difference = RelativeErrorOf(Download(model.results[i]), wanted[i]);
      worst = std::max(worst, difference);
      if (difference > shape.Bound())
        bad += " " + std::to_string(i) + ": " + std::to_string(difference);
    }
    if (!bad.empty()) {
      std::printf("%s: %s: results%s of %zu\n", NameOf(shape).c_str(), how, bad.c_str(),
                  wanted.size());
    }
    return worst / shape.Bound();
  }

  Shape shape;
  Arena arena;
  Model model;
  std::optional<StepProgram> program;
  std::vector<std::vector<float>> before, wanted;
};

int Main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 100;
  const int seed = argc > 2 ? std::atoi(argv[2]) : 1;
  const bool small = argc > 3 && std::string(argv[3]) == "small";
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0 || !IsHopper()) {
    std::puts("skipped: no Hopper GPU");
    return 77;
  }
  cudaStream_t streams[2];
  for (cudaStream_t& stream : streams) {
    Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  std::mt19937 random(seed);
  double worst = 0;
  int failures = 0, programs = 0;
  const auto note = [&](double difference) {
    worst = std::max(worst, difference);
    failures += difference > 1 ? 1 : 0;
  };
  std::unique_ptr<Case> previous;
  for (int i = 0; i < cases; ++i) {
    const Shape shape = RandomShape(random, small);
    auto current = std::make_unique<Case>(shape, random());
    if (!current->program) continue;
    ++programs;
    current->Reset();
    for (int step = 0; step < kSteps; ++step) current->program->Launch(nullptr);
    Check(cudaDeviceSynchronize(), NameOf(shape).c_str());
    note(current->Compare("alone"));
    if (previous != nullptr) {  // whose blocks wait for each other, as this one's do
      const Case* const both[] = {previous.get(), current.get()};
      for (const Case* one : both) one->Reset();
      for (int step = 0; step < kSteps; ++step) {
        for (int j : {0, 1}) both[j]->program->Launch(streams[j]);
      }
      Check(cudaDeviceSynchronize(), NameOf(shape).c_str());
      for (const Case* one : both) note(one->Compare("beside another"));
    }
    previous = std::move(current);
  }
  std::printf("%d cases, %d of them programs, %d failures, largest difference %.2f of its bound\n",
              cases, programs, failures, worst);
  return failures == 0 && programs > cases / 4 ? 0 : 1;
}

}  // namespace
}  // namespace fla::cuda::bench

int main(int argc, char** argv) { return fla::cuda::bench::Main(argc, argv); }
