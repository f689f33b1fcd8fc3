// Compares the ops around the recurrence that work along a sequence, a head or a row
// (ShortConvolution, ActivateHeads, OutputNorm, RmsNorm, AddRmsNorm, LayerNorm, and folded residual
// streams) with double-precision loops, on random shapes, strides and alignments. Exit code 1 if
// any element is out of bounds, or one beside the output has changed.
//
//   sequence_ops_check [cases of each] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench/cuda/random.h"
#include "bench/cuda/recurrence_inputs.h"
#include "kernels/cuda/folded_residual.h"
#include "kernels/cuda/ops.h"

namespace fla::cuda::bench {
namespace {

constexpr Activation kActivations[] = {
    Activation::kIdentity,    Activation::kSilu,       Activation::kSigmoid, Activation::kRelu,
    Activation::kReluPlusEps, Activation::kEluPlusOne, Activation::kGelu};

double Activated(Activation activation, double x) {
  switch (activation) {
    case Activation::kIdentity:
      return x;
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kReluPlusEps:
      return std::max(x, 0.0) + 1e-6;
    case Activation::kEluPlusOne:
      return x > 0 ? x + 1 : std::exp(x);
    case Activation::kGelu:
      return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
  }
  return NAN;
}

// Columns of a wider matrix of random numbers, on both sides; a few are not aligned.
template <typename T>
class Columns {
 public:
  Columns(Random& random, int64_t rows, int64_t cols, double deviation)
      : rows_(rows),
        cols_(cols),
        begin_(random.Pick({0, 0, 0, 8, 8, 16, 64, 1})),
        stride_(begin_ + cols + random.Pick({0, 0, 0, 8, 8, 16, 64, 3})),
        host_(random.Matrix<T>(rows, stride_, deviation)),
        device_(host_) {}

  fla::Matrix matrix() const {
    return {device_.data() + begin_, DTypeOf<T>(), rows_, cols_, stride_};
  }
  double At(int64_t row, int64_t column) const {
    return static_cast<float>(host_[row * stride_ + begin_ + column]);
  }
  std::vector<double> Values() const {
    std::vector<double> values;
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t column = 0; column < cols_; ++column) values.push_back(At(row, column));
    }
    return values;
  }

  // What is wrong with the device's values: those of the matrix may differ from `wanted` by
  // `relative` of it plus `absolute`, what lies beside it not at all from what it was. `worst`
  // becomes the largest part of its bound that a difference has taken.
  std::string Compare(const std::vector<double>& wanted, double relative, double absolute,
                      double& worst) const {
    const std::vector<T> actual = device_.Download();
    for (int64_t i = 0; i < rows_ * stride_; ++i) {
      const int64_t row = i / stride_, column = i % stride_ - begin_;
      const std::string place = " at " + std::to_string(row) + ", " + std::to_string(column);
      if (column < 0 || column >= cols_) {
        if (std::memcmp(&actual[i], &host_[i], sizeof(T)) != 0) return "changed" + place;
        continue;
      }
      const double value = static_cast<float>(actual[i]), target = wanted[row * cols_ + column];
      const double part = std::fabs(value - target) / (relative * std::fabs(target) + absolute);
      if (!(part <= 1)) {
        return std::to_string(value) + " instead of " + std::to_string(target) + place;
      }
      worst = std::max(worst, part);
    }
    return "";
  }

 private:
  int64_t rows_, cols_, begin_, stride_;
  std::vector<T> host_;
  DeviceArray<T> device_;
};

// Half of the last bit at most, and what f32 arithmetic adds.
template <typename T>
constexpr double kRounding = sizeof(T) == 4 ? 2e-6 : 0x1p-8 + 2e-6;
constexpr double kAbsolute = 4e-6;

class Checker {
 public:
  Checker(int cases, int seed) : random_(seed), cases_(cases) {}

  // Runs the cases; whether all were right.
  bool Run() {
    for (int i = 0; i < cases_; ++i) {
      Try<float>();
      Try<__nv_bfloat16>();
      Count(FoldedSum());
    }
    std::printf("%d cases, %d failed; worst part of its bound %.2f\n", tried_, failed_, worst_);
    return failed_ == 0;
  }

 private:
  template <typename T>
  void Try() {
    for (const auto& message : {Convolution<T>(), Convolution<T>(), Convolution<T>(), Heads<T>(),
                                Output<T>(), RowNorm<T, T>(), RowNorm<float, T>(),
                                CenteredRowNorm<T, T>(), CenteredRowNorm<float, T>()}) {
      Count(message);
    }
  }
  void Count(const std::string& message) {
    ++tried_;
    if (message.empty()) return;
    if (++failed_ <= 40) std::printf("FAILED %s\n", message.c_str());
  }
  // `name` with its type and `message`, if there is one.
  template <typename T>
  static std::string Report(const std::string& name, const std::string& message) {
    return message.empty() ? "" : std::string(NameOf(DTypeOf<T>())) + " " + name + ": " + message;
  }
  static void Synchronize() { Check(cudaDeviceSynchronize(), "synchronize"); }

  std::vector<int> Lengths() {
    std::vector<int> lengths(random_.Pick({1, 2, 3, 5, 9}));
    const int kind = random_.Pick({0, 1, 2, 2, 2});
    for (int& length : lengths) {
      length = kind == 0   ? 1
               : kind == 1 ? random_.Pick({0, 1, 2, 3, 5, 8})
                           : random_.Pick({0, 0, 1, 2, 4, 7, 9, 16, 30, 31, 62, 130});
    }
    return lengths;
  }

  template <typename T>
  std::string Convolution() {
    ShortConvolutionArgs args;
    const bool trained = !random_.Chance(3);  // as convolution_tile.cu wants it
    args.width = trained ? 4 : random_.Pick({2, 3, 4, 8});
    args.activation = trained ? Activation::kSilu : Pick(kActivations);
    args.head_dim = random_.Pick({8, 16, 32, 64, 96, 128, 128, 256, 256, 512});
    args.normed = random_.Chance(3) ? 0 : int64_t{args.head_dim} * random_.Pick({1, 2, 3, 5});
    args.norm_eps = 1e-6f;
    const int64_t channels =
        args.normed + random_.Pick({args.normed > 0 ? 0 : 24, 8, 64, 520, trained ? 256 : 13});
    const std::vector<int> lengths = Lengths();
    args.num_sequences = static_cast<int>(lengths.size());
    std::vector<int> begins = {0}, slots;
    for (const int length : lengths) begins.push_back(begins.back() + length);
    const int longest = *std::max_element(lengths.begin(), lengths.end());
    const int shortest = *std::min_element(lengths.begin(), lengths.end());
    const bool steps = longest == 1 && shortest == 1;
    for (int n = 0; n < args.num_sequences; ++n) {
      slots.push_back(steps && random_.Chance(3) ? -1 : args.num_sequences - n);
    }
    const int tokens = begins.back(), state_size = static_cast<int>(channels) * (args.width - 1);
    args.slot_stride = state_size + random_.Pick({0, 0, 4, 3});

    const Columns<T> x(random_, tokens, channels, 1), out(random_, tokens, channels, 1);
    const auto taps = random_.Matrix<float>(channels, args.width, 0.5);
    const auto bias = random_.Matrix<float>(1, channels, 0.5);
    auto state = random_.Matrix<float>(args.num_sequences + 1, args.slot_stride, 1);
    const DeviceArray<float> device_taps(taps), device_bias(bias), device_state(state);
    const DeviceArray<int> device_slots(slots), device_begins(begins);
    const bool biased = !trained && random_.Chance(2);
    args.x = x.matrix();
    args.out = out.matrix();
    args.weight = device_taps.data();
    if (biased) args.bias = device_bias.data();
    args.state = device_state.data();
    args.slots = device_slots.data();
    args.cu_seqlens = device_begins.data();
    args.cu_seqlens_host = begins.data();
    cuda::ShortConvolution(stream_, args);
    Synchronize();

    std::vector<double> wanted = out.Values();
    for (int n = 0; n < args.num_sequences; ++n) {
      if (slots[n] < 0) continue;
      for (int64_t c = 0; c < channels; ++c) {
        float* const kept = state.data() + slots[n] * args.slot_stride + c * (args.width - 1);
        std::vector<double> inputs(kept, kept + args.width - 1);
        for (int token = begins[n]; token < begins[n + 1]; ++token) {
          inputs.push_back(x.At(token, c));
          double sum = biased ? bias[c] : 0;
          for (int j = 0; j < args.width; ++j) {
            sum += taps[c * args.width + j] * inputs[token - begins[n] + j];
          }
          wanted[token * channels + c] = Activated(args.activation, sum);
        }
        std::copy(inputs.end() - (args.width - 1), inputs.end(), kept);
      }
    }
    for (int token = 0; token < tokens; ++token) {
      for (int64_t head = 0; head < args.normed; head += args.head_dim) {
        NormalizeHead(HeadNorm::kL2, args.norm_eps, args.head_dim,
                      wanted.data() + token * channels + head);
      }
    }
    std::string name = "convolution, width " + std::to_string(args.width) + ", " +
                       std::to_string(channels) + " channels, " + std::to_string(args.normed) +
                       " normed by " + std::to_string(args.head_dim) + ", tokens";
    for (const int length : lengths) name += " " + std::to_string(length);
    // Where the norm is a kernel of its own, the head has been rounded before: this element and the
    // others.
    const double rounding = kRounding<T> * (args.normed > 0 ? 3 : 1);
    std::string message = out.Compare(wanted, rounding, kAbsolute, worst_);
    if (message.empty() && device_state.Download() != state) message = "state";
    return Report<T>(name, message);
  }

  static void NormalizeHead(HeadNorm norm, double eps, int head_dim, double* head) {
    double sum = 0;
    for (int i = 0; i < head_dim; ++i) {
      sum += norm == HeadNorm::kL2   ? head[i] * head[i]
             : norm == HeadNorm::kL1 ? std::fabs(head[i])
                                     : head[i];
    }
    for (int i = 0; i < head_dim; ++i) {
      if (norm == HeadNorm::kL2) head[i] /= std::sqrt(sum + eps);
      if (norm == HeadNorm::kSum) head[i] /= sum + eps;
      if (norm == HeadNorm::kL1) head[i] /= std::max(sum, eps);
    }
  }

  int HeadDim() {
    return random_.Pick({1, 7, 8, 32, 40, 64, 96, 100, 128, 192, 256, 512, 576, 1032});
  }

  template <typename T>
  std::string Heads() {
    ActivateHeadsArgs args;
    args.head_dim = HeadDim();
    args.activation = Pick(kActivations);
    static constexpr HeadNorm kNorms[] = {HeadNorm::kNone, HeadNorm::kL2, HeadNorm::kL1,
                                          HeadNorm::kSum};
    args.norm = Pick(kNorms);
    // A sum is divided by only where it is of positive numbers.
    if (args.norm == HeadNorm::kSum) args.activation = Activation::kEluPlusOne;
    // Of GELU's lower tail f32 has few digits (1 + erf), and all of a short head may be there.
    if (args.norm != HeadNorm::kNone && args.activation == Activation::kGelu) {
      args.activation = Activation::kSilu;
    }
    args.eps = random_.Chance(2) ? 1e-6f : 0.5f;
    const int rows = random_.Pick({1, 2, 5, 33}), heads = random_.Pick({1, 2, 3, 8});
    const Columns<T> x(random_, rows, int64_t{heads} * args.head_dim, 2),
        other(random_, rows, int64_t{heads} * args.head_dim, 2);
    const Columns<T>& out = random_.Chance(2) ? x : other;
    args.x = x.matrix();
    args.out = out.matrix();
    cuda::ActivateHeads(stream_, args);
    Synchronize();

    std::vector<double> wanted = x.Values();
    for (double& value : wanted) value = Activated(args.activation, value);
    for (size_t head = 0; head < wanted.size(); head += args.head_dim) {
      NormalizeHead(args.norm, args.eps, args.head_dim, wanted.data() + head);
    }
    const std::string name = "heads of " + std::to_string(args.head_dim) + ", activation " +
                             std::to_string(static_cast<int>(args.activation)) + ", norm " +
                             std::to_string(static_cast<int>(args.norm));
    return Report<T>(name, out.Compare(wanted, kRounding<T>, kAbsolute, worst_));
  }

  template <typename T>
  std::string Output() {
    OutputNormArgs args;
    args.head_dim = HeadDim();
    args.normalize = !random_.Chance(4);
    args.eps = 1e-5f;
    args.gate_activation = Pick(kActivations);
    const int rows = random_.Pick({1, 2, 5, 33}), heads = random_.Pick({1, 2, 3, 8});
    const int64_t cols = int64_t{heads} * args.head_dim;
    const Columns<T> x(random_, rows, cols, 2), gate(random_, rows, cols, 2),
        other(random_, rows, cols, 2);
    const Columns<T>& out = random_.Chance(2) ? x : other;
    const auto weight = random_.Matrix<float>(1, args.head_dim, 1);
    const DeviceArray<float> device_weight(weight);
    const bool weighted = !random_.Chance(3), gated = !random_.Chance(3);
    args.x = x.matrix();
    args.out = out.matrix();
    if (weighted) args.weight = device_weight.data();
    if (gated) args.gate = gate.matrix();
    cuda::OutputNorm(stream_, args);
    Synchronize();

    std::vector<double> wanted = x.Values();
    const std::vector<double> gates = gate.Values();
    for (size_t head = 0; head < wanted.size(); head += args.head_dim) {
      double sum = 0;
      for (int i = 0; i < args.head_dim; ++i) sum += wanted[head + i] * wanted[head + i];
      for (int i = 0; i < args.head_dim; ++i) {
        double& value = wanted[head + i];
        if (args.normalize) value /= std::sqrt(sum / args.head_dim + args.eps);
        if (args.normalize && weighted) value *= weight[i];
        if (gated) value *= Activated(args.gate_activation, gates[head + i]);
      }
    }
    const std::string name = "output norm of heads of " + std::to_string(args.head_dim) +
                             (args.normalize ? "" : " without norm") + (weighted ? " weight" : "") +
                             (gated ? " gate " : " no gate ") +
                             std::to_string(static_cast<int>(args.gate_activation));
    return Report<T>(name, out.Compare(wanted, kRounding<T>, kAbsolute, worst_));
  }

  // Of `x`, to which `delta` is added first if `add`, as it is stored.
  template <typename R, typename T>
  static std::vector<double> Sums(const Columns<R>& x, const Columns<T>& delta, bool add) {
    std::vector<double> sums = x.Values();
    const std::vector<double> deltas = delta.Values();
    for (size_t i = 0; add && i < sums.size(); ++i) {
      sums[i] = static_cast<float>(static_cast<R>(static_cast<float>(sums[i] + deltas[i])));
    }
    return sums;
  }
  int RowLength() { return random_.Pick({5, 8, 40, 100, 512, 1024, 2048, 4096, 4104, 5001}); }

  template <typename R, typename T>
  std::string RowNorm() {
    const int rows = random_.Pick({1, 2, 3}), cols = RowLength();
    const bool add = random_.Chance(2);
    const float eps = 1e-5f;
    const Columns<R> x(random_, rows, cols, 2);
    const Columns<T> delta(random_, rows, cols, 1), out(random_, rows, cols, 1);
    const auto weight = random_.Matrix<float>(1, cols, 1);
    const DeviceArray<float> device_weight(weight);
    if (add) {
      cuda::AddRmsNorm(stream_, x.matrix(), delta.matrix(), device_weight.data(), eps,
                       out.matrix());
    } else {
      cuda::RmsNorm(stream_, x.matrix(), device_weight.data(), eps, out.matrix());
    }
    Synchronize();

    const std::vector<double> sums = Sums(x, delta, add);
    std::vector<double> wanted = sums;
    for (size_t row = 0; row < sums.size(); row += cols) {
      double squares = 0;
      for (int i = 0; i < cols; ++i) squares += sums[row + i] * sums[row + i];
      for (int i = 0; i < cols; ++i) {
        wanted[row + i] = sums[row + i] / std::sqrt(squares / cols + eps) * weight[i];
      }
    }
    std::string message = x.Compare(sums, 0, 1e-30, worst_);
    if (message.empty()) message = out.Compare(wanted, kRounding<T>, kAbsolute, worst_);
    return Report<T>("RMS norm of rows of " + std::to_string(cols) + (add ? " and a sum" : ""),
                     message);
  }

  template <typename R, typename T>
  std::string CenteredRowNorm() {
    const int rows = random_.Pick({1, 2, 3}), cols = RowLength();
    const bool add = random_.Chance(2);
    const Columns<R> x(random_, rows, cols, 2);
    const Columns<T> delta(random_, rows, cols, 1), out(random_, rows, cols, 1);
    const auto weight = random_.Matrix<float>(1, cols, 1), bias = random_.Matrix<float>(1, cols, 1);
    const DeviceArray<float> device_weight(weight), device_bias(bias);
    LayerNormArgs args;
    args.x = x.matrix();
    if (add) args.delta = delta.matrix();
    args.weight = device_weight.data();
    args.bias = device_bias.data();
    args.eps = 1e-5f;
    args.out = out.matrix();
    cuda::LayerNorm(stream_, args);
    Synchronize();

    const std::vector<double> sums = Sums(x, delta, add);
    std::vector<double> wanted = sums;
    for (size_t row = 0; row < sums.size(); row += cols) {
      double sum = 0, squares = 0;
      for (int i = 0; i < cols; ++i) sum += sums[row + i];
      const double mean = sum / cols;
      for (int i = 0; i < cols; ++i) squares += std::pow(sums[row + i] - mean, 2);
      for (int i = 0; i < cols; ++i) {
        wanted[row + i] =
            (sums[row + i] - mean) / std::sqrt(squares / cols + args.eps) * weight[i] + bias[i];
      }
    }
    std::string message = x.Compare(sums, 0, 1e-30, worst_);
    if (message.empty()) message = out.Compare(wanted, kRounding<T>, kAbsolute, worst_);
    return Report<T>("layer norm of rows of " + std::to_string(cols) + (add ? " and a sum" : ""),
                     message);
  }

  // A stream that is folded, added to and unfolded, whose weight changes meanwhile.
  std::string FoldedSum() {
    const int cols = random_.Pick({8, 40, 264, 512, 1000, 2048, 4096});
    const int rows = random_.Pick({1, 3, cols <= 512 ? 150 : 20});
    const float eps = 1e-5f;
    using Bf16 = __nv_bfloat16;
    const auto x = random_.Matrix<float>(rows, cols, 2);
    const auto delta = random_.Matrix<Bf16>(rows, cols, 1);
    auto first = random_.Matrix<float>(1, cols, 1), second = random_.Matrix<float>(1, cols, 1);
    for (auto* weight : {&first, &second}) {
      for (float& w : *weight) w += w < 0 ? -0.1f : 0.1f;
    }
    std::vector<int> backwards(rows);
    for (int i = 0; i < rows; ++i) backwards[i] = rows - 1 - i;
    const DeviceArray<float> device_x(x), device_first(first), device_second(second),
        scales(std::vector<float>(rows, NAN)), unfolded(std::vector<float>(x.size(), NAN));
    const DeviceArray<Bf16> device_delta(delta), normed(delta);
    const DeviceArray<int8_t> rest(std::vector<int8_t>(x.size(), 85));
    const DeviceArray<int> picked(backwards);
    const auto matrix = [&](auto* data, DType dtype) {
      return fla::Matrix{data, dtype, rows, cols, cols};
    };
    FoldedResidual folded = {matrix(normed.data(), DType::kBF16), rest.data(), scales.data(),
                             device_first.data()};
    cuda::FoldResidual(stream_, matrix(device_x.data(), DType::kF32), eps, folded);
    cuda::AddToFolded(stream_, folded, matrix(device_delta.data(), DType::kBF16),
                      device_second.data(), eps);
    folded.weight = device_second.data();
    cuda::UnfoldRows(stream_, folded, picked.data(), matrix(unfolded.data(), DType::kF32));
    Synchronize();

    const auto actual = unfolded.Download();
    const auto actual_normed = normed.Download();
    std::string message;
    const auto expect = [&](const char* what, double value, double wanted, double bound, int row) {
      worst_ = std::max(worst_, std::fabs(value - wanted) / bound);
      if (std::fabs(value - wanted) <= bound) return;
      message = std::string(what) + ": " + std::to_string(value) + " instead of " +
                std::to_string(wanted) + " in row " + std::to_string(row);
    };
    for (int row = 0; row < rows; ++row) {
      std::vector<double> sums(cols);
      double squares = 0;
      for (int i = 0; i < cols; ++i) {
        const size_t at = static_cast<size_t>(row) * cols + i;
        sums[i] = static_cast<double>(x[at]) + static_cast<float>(delta[at]);
        squares += sums[i] * sums[i];
        // Each folding keeps 2^-15 of what it folds.
        const double kept = 0x1p-15 * 1.01 * (std::fabs(x[at]) + std::fabs(sums[i]));
        const size_t last = static_cast<size_t>(rows - 1 - row) * cols + i;
        expect("unfolded", actual[last], sums[i], kept + kAbsolute, row);
      }
      for (int i = 0; i < cols; ++i) {
        const size_t at = static_cast<size_t>(row) * cols + i;
        const double wanted = sums[i] / std::sqrt(squares / cols + eps) * second[i];
        const double folded_x = 0x1p-15 * std::fabs(x[at] * second[i]) / std::sqrt(squares / cols);
        expect("normed", static_cast<float>(actual_normed[at]), wanted,
               kRounding<Bf16> * std::fabs(wanted) + folded_x * 1.01 + kAbsolute, row);
      }
    }
    return message.empty() ? "" : "folded rows of " + std::to_string(cols) + ": " + message;
  }

  template <typename Choice, size_t kCount>
  Choice Pick(const Choice (&choices)[kCount]) {
    return choices[random_.Pick({0, 1, 2, 3, 4, 5, 6}) % kCount];
  }

  Stream stream_{{Device::Kind::kCuda, 0}};
  Random random_;
  int cases_, tried_ = 0, failed_ = 0;
  double worst_ = 0;
};

}  // namespace
}  // namespace fla::cuda::bench

int main(int argc, char** argv) {
  fla::cuda::bench::Checker checker(argc > 1 ? std::atoi(argv[1]) : 200,
                                    argc > 2 ? std::atoi(argv[2]) : 1);
  return checker.Run() ? 0 : 1;
}
