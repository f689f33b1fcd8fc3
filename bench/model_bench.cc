// Prefill and decode speed of a checkpoint, below the server: one table row a batch size, with the
// share of time spent in Linear (the GEMMs).
//
//   model_bench CHECKPOINT [--device cpu] [--dtype f32] [--seconds 3]
//
// The share is measured, not modelled: the linker routes this program's calls of fla::Linear
// through a stopwatch (--wrap; see CMakeLists.txt). On a GPU, where ops only queue work, it is left
// out.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "model/model.h"

namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double linear_seconds = 0;

}  // namespace

// The mangled name of fla::Linear(Stream&, Matrix, Matrix, const float*, Matrix).
#define FLA_LINEAR _ZN3fla6LinearERNS_6StreamENS_6MatrixES2_PKfS2_
#define FLA_JOIN_(a, b) a##b
#define FLA_JOIN(a, b) FLA_JOIN_(a, b)
extern "C" void FLA_JOIN(__real_, FLA_LINEAR)(fla::Stream&, fla::Matrix, fla::Matrix, const float*,
                                              fla::Matrix);
extern "C" void FLA_JOIN(__wrap_, FLA_LINEAR)(fla::Stream& stream, fla::Matrix x,
                                              fla::Matrix weight, const float* bias,
                                              fla::Matrix out) {
  const Clock::time_point begin = Clock::now();
  FLA_JOIN(__real_, FLA_LINEAR)(stream, x, weight, bias, out);
  linear_seconds += SecondsSince(begin);
}

namespace {

struct Speed {
  double median_seconds = 0;
  double linear_share = 0;
};

class Runner {
 public:
  Runner(fla::Model& model, int max_batch)
      : model_(model), pool_(model.stream(), model.config(), max_batch) {
    for (int i = 0; i < max_batch; ++i) pool_.Acquire(model_.stream());
  }

  // Runs batches of `sequences` x `length` tokens for about `seconds`.
  Speed Measure(int sequences, int length, double seconds) {
    fla::Batch batch;
    batch.cu_seqlens.push_back(0);
    for (int s = 0; s < sequences; ++s) {
      for (int t = 0; t < length; ++t) {
        batch.tokens.push_back((s * 131 + t * 17 + 5) % model_.config().vocab_size);
      }
      batch.slots.push_back(s);
      batch.positions.push_back(0);
      batch.cu_seqlens.push_back(static_cast<int>(batch.tokens.size()));
      batch.logits_rows.push_back(static_cast<int>(batch.tokens.size()) - 1);
    }
    batch.num_decode = length == 1 ? sequences : 0;
    Run(batch);  // memory and caches warm up
    std::vector<double> times;
    linear_seconds = 0;
    const Clock::time_point begin = Clock::now();
    while (SecondsSince(begin) < seconds || times.size() < 5) {
      const Clock::time_point start = Clock::now();
      Run(batch);
      times.push_back(SecondsSince(start));
    }
    double total = 0;
    for (const double time : times) total += time;
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return {times[times.size() / 2], linear_seconds / total};
  }

 private:
  void Run(const fla::Batch& batch) {
    model_.Forward(batch, pool_);
    model_.stream().Synchronize();
  }

  fla::Model& model_;
  fla::StatePool pool_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Prefill and decode speed of a checkpoint");
  std::string path, device = "cpu", dtype = "f32";
  double seconds = 3;
  app.add_option("checkpoint", path, "Checkpoint folder")->required();
  app.add_option("--device", device, "cpu, cuda:N or auto");
  app.add_option("--dtype", dtype, "f32 or bf16")->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--seconds", seconds, "Time a row");
  CLI11_PARSE(app, argc, argv);

  constexpr int kPrompt = 512;
  constexpr int kLargestBatch = 16;
  const auto model =
      fla::Model::Load({.path = path,
                        .device = fla::ParseDevice(device),
                        .dtype = dtype == "f32" ? fla::DType::kF32 : fla::DType::kBF16,
                        .max_batch_tokens = kPrompt * kLargestBatch});
  std::printf("%s, %.1fM parameters, %s, %s\n", model->config().model_type.c_str(),
              static_cast<double>(model->parameters()) / 1e6, device.c_str(), dtype.c_str());
  std::printf("%-8s %6s %12s %12s %10s\n", "phase", "batch", "ms", "tokens/s", "in GEMM");
  Runner runner(*model, kLargestBatch);
  for (const int length : {kPrompt, 1}) {
    for (const int batch : {1, kLargestBatch}) {
      const Speed speed = runner.Measure(batch, length, seconds);
      std::printf("%-8s %6d %12.2f %12.0f ", length == 1 ? "decode" : "prefill", batch,
                  1e3 * speed.median_seconds, batch * length / speed.median_seconds);
      if (model->stream().device().is_cuda()) {
        std::printf("%10s\n", "-");
      } else {
        std::printf("%9.0f%%\n", 100 * speed.linear_share);
      }
    }
  }
  return 0;
}
