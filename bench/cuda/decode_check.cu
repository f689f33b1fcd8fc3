// Compares the kernels of a decode step (kernels/decode.h) with double-precision loops, on random
// shapes. Exit code 1 if any case is out of bounds.
//
//   decode_check [cases] [seed]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/cuda/random.h"
#include "bench/cuda/recurrence_inputs.h"
#include "bench/cuda/relative_error.h"
#include "kernels/cuda/decode.h"
#include "kernels/fp8.h"

namespace fla::cuda::bench {
namespace {

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

double Silu(double x) { return x / (1 + std::exp(-x)); }

template <typename T>
fla::Matrix View(const DeviceArray<T>& array, int64_t rows, int64_t cols) {
  return {array.data(), DTypeOf<T>(), rows, cols, cols};
}

// x as the products see it, [T, in].
std::vector<double> InputOf(const DecodeLinearArgs& args, const std::vector<double>& x,
                            const std::vector<double>& gate, const std::vector<float>& norm) {
  std::vector<double> result = x;
  if (args.input == Input::kPlain) return result;
  const int64_t in = args.x.cols, size = args.input == Input::kNormed ? in : args.head_dim;
  for (size_t begin = 0; begin < x.size(); begin += size) {
    double sum = 0;
    for (int64_t i = 0; i < size; ++i) sum += x[begin + i] * x[begin + i];
    const bool normalize = args.input == Input::kNormed || args.normalize;
    const double factor = normalize ? 1 / std::sqrt(sum / size + args.eps) : 1;
    for (int64_t i = 0; i < size; ++i) {
      double& value = result[begin + i];
      value *= factor;
      if (normalize && !norm.empty()) value *= norm[i];
      if (!gate.empty()) value *= Silu(gate[begin + i]);
    }
  }
  return result;
}

// A weight as bytes and scales, to which it is rounded.
struct Fp8Weight {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
};
Fp8Weight RoundToFp8(std::vector<__nv_bfloat16>& weight, int cols) {
  Fp8Weight rounded = {std::vector<uint8_t>(weight.size()), {}};
  for (size_t begin = 0; begin < weight.size(); begin += cols) {
    const auto row = weight.begin() + begin;
    const std::vector<float> values(row, row + cols);
    std::vector<BFloat16> wide(cols);
    const float scale = Fp8Scale(values);
    PackFp8(values, scale, rounded.bytes.data() + begin);
    fla::RoundToFp8(values, scale, wide.data());
    std::transform(wide.begin(), wide.end(), row,
                   [](BFloat16 x) { return static_cast<__nv_bfloat16>(static_cast<float>(x)); });
    rounded.scales.push_back(scale);
  }
  return rounded;
}

std::string CheckLinear(int index, Random& random, double& worst) {
  static constexpr std::pair<Input, Output> kKinds[] = {
      {Input::kPlain, Output::kAdd},
      {Input::kNormed, Output::kStore},
      {Input::kNormed, Output::kSwiGlu},
      {Input::kHeadsNormed, Output::kAdd},
  };
  DecodeLinearArgs args;
  std::tie(args.input, args.output) = kKinds[index % std::size(kKinds)];
  const int tokens = random.Pick({1, 1, 2, 3, 4});
  const int in = random.Pick({64, 128, 192, 512, 1024, 1088, 2048, 5632});
  const int out = random.Pick({8, 16, 40, 128, 200});
  const int weight_rows = args.output == Output::kSwiGlu ? 2 * out : out;
  const bool f32_out =
      args.output == Output::kAdd || (args.output == Output::kStore && random.Chance(2));
  args.eps = 1e-6f;
  args.head_dim = in % 128 == 0 ? random.Pick({64, 128}) : 64;
  args.normalize = !random.Chance(4);

  const auto x_half = random.Matrix<__nv_bfloat16>(tokens, in, 1);
  const auto x_float = random.Matrix<float>(tokens, in, 3);
  const auto gate = random.Matrix<__nv_bfloat16>(tokens, in, 1);
  auto weight = random.Matrix<__nv_bfloat16>(weight_rows, in, 1 / std::sqrt(in));
  const bool fp8 = in % kFp8Run == 0 && random.Chance(2);
  const Fp8Weight rounded = fp8 ? RoundToFp8(weight, in) : Fp8Weight{{0}, {0}};
  const DeviceArray<uint8_t> device_bytes(rounded.bytes);
  const DeviceArray<float> device_scales(rounded.scales);
  const auto norm = random.Matrix<float>(1, in, 1);
  const auto before = random.Matrix<float>(tokens, out, 1);
  const DeviceArray<__nv_bfloat16> device_half(x_half), device_gate(gate), device_weight(weight);
  const DeviceArray<float> device_float(x_float), device_norm(norm);
  const DeviceArray<float> out_float(before);
  const DeviceArray<__nv_bfloat16> out_half(std::vector<__nv_bfloat16>(
      static_cast<size_t>(tokens) * out, static_cast<__nv_bfloat16>(NAN)));

  args.x =
      args.input == Input::kNormed ? View(device_float, tokens, in) : View(device_half, tokens, in);
  const bool has_norm = args.input == Input::kNormed || random.Chance(2);
  const bool has_gate = args.input == Input::kHeadsNormed && random.Chance(2);
  if (has_norm) args.norm_weight = device_norm.data();
  if (has_gate) args.gate = View(device_gate, tokens, in);
  args.weight = View(device_weight, weight_rows, in);
  if (fp8) {
    args.weight.data = device_bytes.data();
    args.weight.dtype = DType::kF8E4M3;
    args.weight.scales = device_scales.data();
  }
  args.out = f32_out ? View(out_float, tokens, out) : View(out_half, tokens, out);
  const std::string name = "linear " + std::to_string(index % std::size(kKinds)) + " tokens " +
                           std::to_string(tokens) + " " + std::to_string(in) + " -> " +
                           std::to_string(out) + (fp8 ? ", e4m3" : "");
  if (!LaunchDecodeLinear(args, nullptr, false)) return name + ": refused";
  Check(cudaDeviceSynchronize(), "synchronize");

  std::vector<double> x;
  if (args.input == Input::kNormed) {
    x.assign(x_float.begin(), x_float.end());
  } else {
    for (const __nv_bfloat16 value : x_half) x.push_back(static_cast<float>(value));
  }
  std::vector<double> gates;
  if (has_gate) {
    for (const __nv_bfloat16 value : gate) gates.push_back(static_cast<float>(value));
  }
  x = InputOf(args, x, gates, has_norm ? norm : std::vector<float>());
  const auto product = [&](int token, int row) {
    double sum = 0;
    for (int i = 0; i < in; ++i) {
      sum += x[token * in + i] * static_cast<float>(weight[static_cast<size_t>(row) * in + i]);
    }
    return sum;
  };
  const auto floats = out_float.Download();
  const auto halves = out_half.Download();
  RelativeError error;
  for (int token = 0; token < tokens; ++token) {
    for (int row = 0; row < out; ++row) {
      const int at = token * out + row;
      double wanted = product(token, row);
      if (args.output == Output::kAdd) wanted += before[at];
      if (args.output == Output::kSwiGlu) wanted = Silu(wanted) * product(token, out + row);
      error.Add(f32_out ? floats[at] : static_cast<float>(halves[at]), wanted);
    }
  }
  worst = std::max(worst, error.value());
  // kSwiGlu multiplies two rounded products, and few results do not average.
  const double bound = args.output == Output::kSwiGlu ? 2e-2 : 6e-3;
  return error.value() < bound ? "" : name + ": error " + std::to_string(error.value());
}

// One head of one row: convolution, activation, norm, rotary.
std::vector<double> PrepareHeadReference(const PrepareStepArgs& args, std::vector<double> x,
                                         const float* taps, float* state, Activation activation,
                                         HeadNorm norm, bool rotary, int position) {
  const int size = static_cast<int>(x.size()), width = args.width;
  for (int c = 0; c < size; ++c) {
    if (width > 0) {
      const double current = x[c];
      x[c] = taps[c * width + width - 1] * current;
      for (int j = 0; j + 1 < width; ++j) {
        x[c] += static_cast<double>(taps[c * width + j]) * state[c * (width - 1) + j];
      }
      for (int j = 0; j + 2 < width; ++j) {
        state[c * (width - 1) + j] = state[c * (width - 1) + j + 1];
      }
      state[c * (width - 1) + width - 2] = static_cast<float>(current);
    }
    if (activation == Activation::kSilu) x[c] = Silu(x[c]);
  }
  double sum = 0;
  for (const double value : x) sum += norm == HeadNorm::kL2 ? value * value : std::fabs(value);
  for (double& value : x) {
    if (norm == HeadNorm::kL2) value /= std::sqrt(sum + args.norm_eps);
    if (norm == HeadNorm::kL1) value /= std::max<double>(sum, args.norm_eps);
  }
  if (rotary) {
    const int half = size / 2;
    for (int c = 0; c < half; ++c) {
      const double angle = position * std::pow(args.rotary_base, -2.0 * c / size);
      const double low = x[c], high = x[c + half];
      x[c] = low * std::cos(angle) - high * std::sin(angle);
      x[c + half] = low * std::sin(angle) + high * std::cos(angle);
    }
  }
  return x;
}

std::string CheckPrepare(int index, Random& random, double& worst) {
  const int rows = random.Pick({1, 2, 5}), heads = random.Pick({1, 2, 3}), v_heads = heads * 2;
  const int K = random.Pick({32, 64, 96, 128, 256}), V = random.Pick({32, 128, 160, 512});
  const int rank = random.Pick({0, 8, 16, 40, 128, 256});
  const bool per_channel = rank > 0 || random.Chance(2), rotary = random.Chance(3);
  const int q_cols = heads * K, v_cols = v_heads * V, channels = 2 * q_cols + v_cols;
  const int slots = rows + 2;
  PrepareStepArgs args;
  args.width = random.Pick({0, 2, 3, 4, 4});
  args.head_k_dim = K;
  args.head_v_dim = V;
  args.qk_activation = random.Chance(3) ? Activation::kIdentity : Activation::kSilu;
  args.v_activation = Activation::kSilu;
  args.q_norm = random.Chance(2) ? HeadNorm::kL2 : HeadNorm::kNone;
  args.k_norm = random.Chance(2) ? HeadNorm::kL2 : HeadNorm::kL1;
  args.norm_eps = 1e-6f;
  args.rotary_base = rotary ? 10000.0f : 0.0f;
  args.beta_scale = 2.0f;

  const int decay_cols = per_channel ? v_heads * K : v_heads,
            gate_cols = rank > 0 ? rank : decay_cols;
  const auto packed = random.Matrix<__nv_bfloat16>(rows, channels, 1);
  const auto gates = random.Matrix<__nv_bfloat16>(rows, gate_cols, 1);
  const auto betas = random.Matrix<__nv_bfloat16>(rows, v_heads, 1);
  const auto map = random.Matrix<__nv_bfloat16>(decay_cols, std::max(rank, 8), 0.2);
  const auto map_bias = random.Matrix<float>(1, decay_cols, 1);
  const auto taps = random.Matrix<float>(channels, 4, 0.5);
  auto state = random.Matrix<float>(slots, static_cast<int64_t>(channels) * 3, 1);
  const auto a_log = random.Matrix<float>(1, v_heads, 1),
             dt_bias = random.Matrix<float>(1, decay_cols, 1);
  std::vector<int> row_slots, positions;
  for (int row = 0; row < rows; ++row) {
    row_slots.push_back(row == 1 ? -1 : slots - 1 - row);
    positions.push_back(row * 37 + 1);
  }
  const DeviceArray<__nv_bfloat16> device_packed(packed), device_gates(gates), device_betas(betas),
      device_map(map);
  const DeviceArray<float> device_bias(map_bias), device_taps(taps), device_state(state),
      device_a(a_log), device_dt(dt_bias);
  const DeviceArray<int> device_slots(row_slots), device_positions(positions);
  const DeviceArray<__nv_bfloat16> out(
      std::vector<__nv_bfloat16>(packed.size(), static_cast<__nv_bfloat16>(NAN)));
  const DeviceArray<float> decay(std::vector<float>(static_cast<size_t>(rows) * decay_cols, NAN)),
      beta(std::vector<float>(static_cast<size_t>(rows) * v_heads, NAN));
  const fla::Matrix all = View(device_packed, rows, channels), all_out = View(out, rows, channels);
  args.q = all.Columns(0, q_cols), args.q_out = all_out.Columns(0, q_cols);
  args.k = all.Columns(q_cols, q_cols), args.k_out = all_out.Columns(q_cols, q_cols);
  args.v = all.Columns(2 * q_cols, v_cols), args.v_out = all_out.Columns(2 * q_cols, v_cols);
  args.taps = device_taps.data();
  args.state = device_state.data();
  args.slot_stride = static_cast<int64_t>(channels) * 3;
  args.slots = device_slots.data();
  args.positions = device_positions.data();
  args.decay.kind = GateKind::kSoftplus;
  args.decay.x = View(device_gates, rows, gate_cols);
  args.decay.heads = v_heads;
  args.decay.a_log = device_a.data();
  args.decay.dt_bias = device_dt.data();
  args.decay.out = decay.data();
  // The same map and rows serve as an output gate, where there is one.
  const DeviceArray<__nv_bfloat16> gate(std::vector<__nv_bfloat16>(
      static_cast<size_t>(rows) * decay_cols, static_cast<__nv_bfloat16>(NAN)));
  const bool gated = rank > 0 && random.Chance(2);
  if (rank > 0) args.decay_map = {View(device_map, decay_cols, rank), device_bias.data()};
  if (gated) {
    args.gate_x = args.decay.x;
    args.gate_map = {args.decay_map.weight, random.Chance(2) ? device_bias.data() : nullptr};
    args.gate_out = View(gate, rows, decay_cols);
  }
  args.beta = View(device_betas, rows, v_heads);
  args.beta_out = beta.data();
  const std::string name = "prepare K " + std::to_string(K) + " V " + std::to_string(V) + " rows " +
                           std::to_string(rows) + " width " + std::to_string(args.width) +
                           " rank " + std::to_string(rank) + " case " + std::to_string(index);
  if (!LaunchPrepareStep(args, nullptr, false)) return name + ": refused";
  Check(cudaDeviceSynchronize(), "synchronize");

  const auto actual = out.Download();
  const auto actual_decay = decay.Download(), actual_beta = beta.Download(),
             actual_state = device_state.Download();
  const auto actual_gate = gate.Download();
  RelativeError heads_error, gates_error, state_error, output_gate_error;
  for (int row = 0; row < rows; ++row) {
    const int slot = row_slots[row];
    for (int begin = 0; begin < channels;) {
      const bool is_v = begin >= 2 * q_cols, is_q = begin < q_cols;
      const int size = is_v ? V : K;
      std::vector<double> x;
      for (int c = begin; c < begin + size; ++c) {
        x.push_back(static_cast<float>(packed[static_cast<size_t>(row) * channels + c]));
      }
      if (slot >= 0) {
        float* const head_state =
            state.data() + slot * args.slot_stride + begin * std::max(args.width - 1, 0);
        x = PrepareHeadReference(args, x, taps.data() + begin * args.width, head_state,
                                 is_v ? args.v_activation : args.qk_activation,
                                 is_v   ? HeadNorm::kNone
                                 : is_q ? args.q_norm
                                        : args.k_norm,
                                 rotary && !is_v, positions[row]);
      }
      for (int c = 0; c < size; ++c) {
        const float value =
            static_cast<float>(actual[static_cast<size_t>(row) * channels + begin + c]);
        if (slot >= 0) {
          heads_error.Add(value, x[c]);
        } else if (!std::isnan(value)) {
          return name + ": wrote a row of no sequence";
        }
      }
      begin += size;
    }
    if (slot < 0) continue;
    for (int c = 0; c < decay_cols; ++c) {
      double x = 0;
      if (rank > 0) {
        x = map_bias[c];
        for (int i = 0; i < rank; ++i) {
          x += static_cast<double>(static_cast<float>(map[static_cast<size_t>(c) * rank + i])) *
               static_cast<float>(gates[static_cast<size_t>(row) * gate_cols + i]);
        }
        const double mapped = x - (args.gate_map.bias == nullptr ? map_bias[c] : 0);
        const size_t at = static_cast<size_t>(row) * decay_cols + c;
        if (gated) output_gate_error.Add(static_cast<float>(actual_gate[at]), mapped);
      } else {
        x = static_cast<float>(gates[static_cast<size_t>(row) * gate_cols + c]);
      }
      x = -std::exp(a_log[c / (decay_cols / v_heads)]) * std::log1p(std::exp(x + dt_bias[c]));
      gates_error.Add(actual_decay[static_cast<size_t>(row) * decay_cols + c], x);
    }
    for (int h = 0; h < v_heads; ++h) {
      const double x = static_cast<float>(betas[static_cast<size_t>(row) * v_heads + h]);
      gates_error.Add(actual_beta[static_cast<size_t>(row) * v_heads + h], 2 / (1 + std::exp(-x)));
    }
  }
  for (size_t i = 0; i < state.size(); ++i) state_error.Add(actual_state[i], state[i]);
  worst = std::max({worst, heads_error.value()});
  if (heads_error.value() > 4e-3) return name + ": heads " + std::to_string(heads_error.value());
  if (gates_error.value() > 1e-5) return name + ": gates " + std::to_string(gates_error.value());
  if (output_gate_error.value() > 4e-3) {
    return name + ": output gate " + std::to_string(output_gate_error.value());
  }
  if (state_error.value() > 0) return name + ": state " + std::to_string(state_error.value());
  return "";
}

int Main(int argc, char** argv) {
  const int cases = argc > 1 ? std::atoi(argv[1]) : 200;
  Random random(argc > 2 ? std::atoi(argv[2]) : 1);
  int failed = 0;
  double worst[2] = {};
  for (int i = 0; i < cases; ++i) {
    for (const std::string& message :
         {CheckLinear(i, random, worst[0]), CheckPrepare(i, random, worst[1])}) {
      if (message.empty()) continue;
      if (++failed <= 40) std::printf("FAILED %s\n", message.c_str());
    }
  }
  std::printf("%d cases, %d failed; worst linear %.2e, prepare %.2e\n", 2 * cases, failed, worst[0],
              worst[1]);
  return failed > 0;
}

}  // namespace
}  // namespace fla::cuda::bench

int main(int argc, char** argv) { return fla::cuda::bench::Main(argc, argv); }
