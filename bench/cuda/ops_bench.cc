// Times the ops around the recurrence at the shapes of a 1.3B model (D 2048, MLP 5632, vocabulary
// 32000) in bf16: median of graph replays, with the bytes (or products) that an op cannot avoid
// over that time. Also says for which token counts a row of a Linear has the same bits.
//
//   ops_bench
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/context.h"
#include "kernels/cuda/errors.h"
#include "kernels/device.h"
#include "kernels/folded_residual.h"
#include "kernels/ops.h"
#include "kernels/sampling.h"

namespace fla::cuda::bench {
namespace {

constexpr int64_t kModel = 2048, kInner = 5632, kVocab = 32000;

class OpsBench {
 public:
  OpsBench() : device_(ParseDevice("cuda")), stream_(device_) {}

  void Run() {
    for (int64_t tokens : {1, 32, 256, 8192}) {
      TimeLinear(tokens, kModel, 3 * kModel);
      TimeLinear(tokens, kModel, 2 * kInner);
      TimeLinear(tokens, kInner, kModel);
    }
    for (int64_t tokens : {1, 32, 256}) TimeLinear(tokens, kModel, kVocab);
    for (int64_t tokens : {1, 256, 8192, 16384}) TimeActivations(tokens);
    for (int64_t vocab : {int64_t{32000}, int64_t{248320}}) {
      for (int64_t rows : {1, 32, 256}) TimeSample(rows, vocab);
    }
    CompareRows(DType::kBF16);
    CompareRows(DType::kF32);
  }

 private:
  Matrix Random(int64_t rows, int64_t cols, DType dtype) {
    std::vector<uint16_t> halves;
    std::vector<float> floats;
    for (int64_t i = 0; i < rows * cols; ++i) {
      const float value = static_cast<float>(random_() >> 8) / (1 << 23) - 1.0f;
      dtype == DType::kF32 ? floats.push_back(value) : halves.push_back(BFloat16(value).bits);
    }
    const void* source = dtype == DType::kF32 ? static_cast<const void*>(floats.data())
                                              : static_cast<const void*>(halves.data());
    buffers_.emplace_back(device_, rows * cols * SizeOf(dtype));
    stream_.CopyToDevice(buffers_.back().data(), source, buffers_.back().size());
    return {buffers_.back().data(), dtype, rows, cols, cols};
  }
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    buffers_.emplace_back(device_, values.size() * sizeof(T));
    stream_.CopyToDevice(buffers_.back().data(), values.data(), values.size() * sizeof(T));
    return buffers_.back().as<T>();
  }

  // Microseconds of one call. Call number i gets i, to choose among inputs that together do not
  // fit in the cache.
  double Microseconds(const std::function<void(int)>& call) {
    constexpr int kCalls = 20, kReplays = 7;
    const cudaStream_t stream = stream_.cuda()->stream;
    call(0);
    stream_.Synchronize();
    cudaGraph_t graph;
    cudaGraphExec_t replay;
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < kCalls; ++i) call(i);
    Check(cudaStreamEndCapture(stream, &graph), "capture");
    Check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
    cudaEvent_t begin, end;
    Check(cudaEventCreate(&begin), "cudaEventCreate");
    Check(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<float> times;
    for (int i = 0; i < kReplays + 2; ++i) {
      Check(cudaEventRecord(begin, stream), "cudaEventRecord");
      Check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
      Check(cudaEventRecord(end, stream), "cudaEventRecord");
      Check(cudaEventSynchronize(end), "replay");
      float milliseconds = 0;
      Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
      if (i >= 2) times.push_back(milliseconds * 1e3f / kCalls);
    }
    std::sort(times.begin(), times.end());
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(replay);
    cudaGraphDestroy(graph);
    return times[times.size() / 2];
  }

  void Report(const std::string& name, double microseconds, double bytes, double products = 0) {
    std::printf("%-44s %9.2f us %8.0f GB/s", name.c_str(), microseconds,
                bytes / microseconds * 1e-3);
    if (products > 0) std::printf(" %6.0f TFLOP/s", 2 * products / microseconds * 1e-6);
    std::printf("\n");
  }

  void TimeLinear(int64_t tokens, int64_t in, int64_t out) {
    constexpr int kWeights = 5;  // 5 x 25 MB or more: not all in the 50 MB of L2
    const Matrix x = Random(tokens, in, DType::kBF16);
    const Matrix y = Random(tokens, out, DType::kBF16);
    std::vector<Matrix> weights;
    for (int i = 0; i < kWeights; ++i) {
      weights.push_back(i == 0 ? Random(out, in, DType::kBF16) : Copy(weights[0]));
    }
    const double time =
        Microseconds([&](int i) { Linear(stream_, x, weights[i % kWeights], nullptr, y); });
    Report("Linear " + std::to_string(tokens) + " x " + std::to_string(in) + " -> " +
               std::to_string(out),
           time, 2.0 * (tokens * in + in * out + tokens * out),
           static_cast<double>(tokens) * in * out);
    buffers_.clear();
  }

  Matrix Copy(const Matrix& matrix) {
    buffers_.emplace_back(device_, matrix.rows * matrix.cols * SizeOf(matrix.dtype));
    Check(cudaMemcpyAsync(buffers_.back().data(), matrix.data, buffers_.back().size(),
                          cudaMemcpyDeviceToDevice, stream_.cuda()->stream),
          "cudaMemcpyAsync");
    Matrix copy = matrix;
    copy.data = buffers_.back().data();
    return copy;
  }

  void TimeActivations(int64_t tokens) {
    const DType dtype = DType::kBF16;
    const std::string suffix = ", " + std::to_string(tokens) + " tokens";
    const Matrix x = Random(tokens, kModel, dtype), y = Random(tokens, kModel, dtype);
    const Matrix z = Random(tokens, kModel, dtype), residual = Random(tokens, kModel, DType::kF32);
    const Matrix packed = Random(tokens, 3 * kModel, dtype),
                 wide = Random(tokens, 3 * kModel, dtype);
    const Matrix gate_up = Random(tokens, 2 * kInner, dtype), inner = Random(tokens, kInner, dtype);
    const Matrix state = Random(tokens, 3 * kModel * 3, DType::kF32);
    const Matrix decay = Random(tokens, kModel, DType::kF32);
    const auto* weight = static_cast<const float*>(Random(1, 4 * 3 * kModel, DType::kF32).data);
    std::vector<int> each(tokens + 1), whole = {0, static_cast<int>(tokens)};
    for (int i = 0; i <= tokens; ++i) each[i] = i;
    const int* device_each = Upload(each);
    const int* device_whole = Upload(whole);
    const double elements = static_cast<double>(tokens) * kModel;

    Report("AddRmsNorm" + suffix,
           Microseconds([&](int) { AddRmsNorm(stream_, residual, x, weight, 1e-6f, y); }),
           elements * (4 + 4 + 2 + 2));
    FoldedResidual folded = {
        .normed = Random(tokens, kModel, dtype),
        .rest = static_cast<int8_t*>(Random(tokens, kModel / 4, DType::kF32).data),
        .scales = static_cast<float*>(Random(tokens, 1, DType::kF32).data),
        .weight = weight};
    FoldResidual(stream_, residual, 1e-6f, folded);
    Report("AddToFolded" + suffix,
           Microseconds([&](int) { AddToFolded(stream_, folded, x, weight, 1e-6f); }),
           elements * (3 + 2 + 3));
    Report("SwiGlu" + suffix, Microseconds([&](int) { SwiGlu(stream_, gate_up, inner); }),
           static_cast<double>(tokens) * kInner * 6);
    ShortConvolutionArgs convolution{.x = packed, .weight = weight, .width = 4};
    convolution.activation = Activation::kSilu;
    convolution.state = static_cast<float*>(state.data);
    convolution.slot_stride = 3 * kModel * 3;
    convolution.slots = device_each;
    convolution.cu_seqlens = device_whole;
    convolution.cu_seqlens_host = whole.data();
    convolution.num_sequences = 1;
    convolution.out = wide;
    Report("ShortConvolution" + suffix + " of one sequence",
           Microseconds([&](int) { ShortConvolution(stream_, convolution); }), elements * 3 * 4);
    convolution.normed = 3 * kModel / 2;
    convolution.head_dim = 256;
    convolution.norm_eps = 1e-6f;
    Report("ShortConvolution" + suffix + ", half normed",
           Microseconds([&](int) { ShortConvolution(stream_, convolution); }), elements * 3 * 4);
    convolution.normed = 0;
    convolution.cu_seqlens = device_each;
    convolution.cu_seqlens_host = each.data();
    convolution.num_sequences = static_cast<int>(tokens);
    Report("ShortConvolution" + suffix + " of as many",
           Microseconds([&](int) { ShortConvolution(stream_, convolution); }),
           elements * 3 * (4 + 3 * 8));
    ActivateHeadsArgs heads{.x = packed.Columns(0, kModel), .head_dim = 128};
    heads.activation = Activation::kIdentity;
    heads.norm = HeadNorm::kL2;
    heads.out = y;
    Report("ActivateHeads" + suffix, Microseconds([&](int) { ActivateHeads(stream_, heads); }),
           elements * 4);
    OutputNormArgs output{.x = x, .head_dim = 128, .weight = weight, .eps = 1e-6f};
    output.gate = z;
    output.out = y;
    Report("OutputNorm" + suffix, Microseconds([&](int) { OutputNorm(stream_, output); }),
           elements * 6);
    LogDecayArgs gates{.kind = GateKind::kSoftplus, .x = x, .heads = 16};
    gates.a_log = weight;
    gates.dt_bias = weight;
    gates.out = static_cast<float*>(decay.data);
    Report("LogDecay" + suffix, Microseconds([&](int) { LogDecay(stream_, gates); }), elements * 6);
    buffers_.clear();
  }

  void TimeSample(int64_t rows, int64_t vocab) {
    const Matrix logits = Random(rows, vocab, DType::kF32);
    SampleArgs args;
    args.logits = logits;
    args.tokens = Upload(std::vector<int>(rows));
    args.logprobs = Upload(std::vector<float>(rows));
    args.top_tokens = Upload(std::vector<int>(rows * kMaxTopLogprobs));
    args.top_logprobs = Upload(std::vector<float>(rows * kMaxTopLogprobs));
    args.nonfinite = Upload(std::vector<uint8_t>(rows));
    const auto time = [&](const char* name, SamplingRow row) {
      args.rows = Upload(std::vector<SamplingRow>(rows, row));
      Report(std::string("Sample ") + name + ", " + std::to_string(rows) + " x " +
                 std::to_string(vocab),
             Microseconds([&](int) { Sample(stream_, args); }), 4.0 * rows * vocab);
    };
    time("greedy", {});
    time("temperature", {.temperature = 0.8f});
    time("top_k 50", {.temperature = 0.8f, .top_k = 50});
    time("top_p 0.9", {.temperature = 0.8f, .top_p = 0.9f});
    time("top_k, top_p, logprobs",
         {.temperature = 0.8f, .top_k = 50, .top_p = 0.9f, .num_top_logprobs = 5});
    buffers_.clear();
  }

  // Whether row 0 of a Linear over T tokens has the bits that it has over 1 token.
  void CompareRows(DType dtype) {
    for (const auto& [in, out] : {std::pair{kModel, 3 * kModel}, std::pair{kInner, kModel}}) {
      const Matrix x = Random(512, in, dtype), weight = Random(out, in, dtype);
      const Matrix y = Random(512, out, dtype);
      std::vector<char> alone(out * SizeOf(dtype)), together(alone.size());
      Linear(stream_, x.Rows(0, 1), weight, nullptr, y.Rows(0, 1));
      stream_.CopyToHost(alone.data(), y.data, alone.size());
      std::printf("Linear %s %d -> %d, row 0 alone and among T: ", NameOf(dtype),
                  static_cast<int>(in), static_cast<int>(out));
      for (int tokens : {2, 4, 8, 16, 17, 32, 64, 100, 128, 256, 512}) {
        Linear(stream_, x.Rows(0, tokens), weight, nullptr, y.Rows(0, tokens));
        stream_.CopyToHost(together.data(), y.data, together.size());
        stream_.Synchronize();
        std::printf("%d%s ", tokens, alone == together ? "=" : "!");
      }
      std::printf("\n");
      buffers_.clear();
    }
  }

  Device device_;
  Stream stream_;
  std::vector<Buffer> buffers_;
  std::mt19937 random_{1};
};

}  // namespace
}  // namespace fla::cuda::bench

int main() {
  fla::cuda::bench::OpsBench().Run();
  return 0;
}
