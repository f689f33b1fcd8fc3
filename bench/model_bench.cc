// Prefill and decode speed of a checkpoint, below the server: one table row a shape, with the share
// of time spent in Linear (the GEMMs).
//
//   model_bench CHECKPOINT [--device cpu] [--dtype f32] [--seconds 3] [--prefill 1x512,16x512]
//               [--decode 1,16|0] [--temperature 0] [--max-batch-tokens 8192] [--state-dtype f32]
//               [--weight-dtype fp8_e4m3] [--profile]
//
// Prompts go through the model in batches of at most max-batch-tokens, as in the server. A decode
// step samples a token a row and, on a GPU, is launched before the tokens of the step before have
// reached the host. The gap is what lies between two steps by the device's clock: from the end of
// one's sampling to the beginning of the next.
//
// The share is measured, not modelled: the linker routes this program's calls of fla::Linear
// through a stopwatch (--wrap; see CMakeLists.txt). On a GPU, where ops only queue work, it is left
// out.
//
// With --profile each row runs once, warm, between cuProfilerStart and cuProfilerStop:
//   ncu --profile-from-start off --metrics gpu__time_duration.sum model_bench ... --profile
#include <dlfcn.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "bench/checkpoint_options.h"
#include "kernels/ops.h"
#include "model/model.h"
#include "model/sampler.h"
#include "model/state_pool.h"

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

// While it lives, a profiler that waits for it records. Does nothing without a GPU's driver.
class ProfiledRange {
 public:
  ProfiledRange() { Call("cuProfilerStart"); }
  ~ProfiledRange() { Call("cuProfilerStop"); }
  ProfiledRange(const ProfiledRange&) = delete;
  ProfiledRange& operator=(const ProfiledRange&) = delete;

 private:
  static void Call(const char* name) {
    static void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == nullptr) return;
    if (auto* const function = reinterpret_cast<int (*)()>(dlsym(driver, name))) function();
  }
};

struct Speed {
  double median_seconds = 0;
  double linear_share = 0;
  double gap_seconds = 0;  // median
};

double MedianOf(std::vector<double>& values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Shape {
  int sequences;
  int length;
};

// "1x512,16x512": sequences x tokens of each.
std::vector<Shape> ParseShapes(const std::string& text) {
  std::vector<Shape> shapes;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) {
    Shape shape = {};
    if (std::sscanf(part.c_str(), "%dx%d", &shape.sequences, &shape.length) != 2) {
      throw CLI::ValidationError("--prefill", "wanted SEQUENCESxLENGTH, got " + part);
    }
    shapes.push_back(shape);
  }
  return shapes;
}

class Runner {
 public:
  Runner(fla::Model& model, int slots, int max_batch_tokens, fla::StateFormat states, bool profile)
      : model_(model),
        profile_(profile),
        max_batch_tokens_(max_batch_tokens),
        pool_(model.stream(), model.config(), slots, states),
        sampler_(model.stream(), slots, model.config().vocab_size) {
    model_.Prepare(pool_, sampler_.tokens(), slots, slots);
    for (int i = 0; i < slots; ++i) pool_.Acquire(model_.stream());
  }

  // Median time of all prompts of the shape.
  Speed MeasurePrefill(Shape shape, double seconds) {
    return Measure(seconds, [&] {
      RunPrompts(shape);
      model_.stream().Synchronize();
    });
  }

  // Median time of a step, over runs of kSteps.
  Speed MeasureDecode(int sequences, float temperature, double seconds) {
    const int steps = profile_ ? 2 : 32;
    gaps_.clear();
    Speed speed = Measure(seconds, [&] { RunSteps(sequences, temperature, steps); });
    speed.median_seconds /= steps;
    speed.gap_seconds = MedianOf(gaps_);
    return speed;
  }

 private:
  template <typename F>
  Speed Measure(double seconds, F run) {
    run();  // memory and caches warm up
    std::vector<double> times;
    linear_seconds = 0;
    if (profile_) {
      const ProfiledRange range;
      const Clock::time_point start = Clock::now();
      run();
      return {SecondsSince(start)};
    }
    const Clock::time_point begin = Clock::now();
    while (SecondsSince(begin) < seconds || times.size() < 3) {
      const Clock::time_point start = Clock::now();
      run();
      times.push_back(SecondsSince(start));
    }
    double total = 0;
    for (const double time : times) total += time;
    return {MedianOf(times), linear_seconds / total};
  }

  void RunPrompts(Shape shape) {
    int sequence = 0, position = 0;
    while (sequence < shape.sequences) {
      fla::Batch batch;
      batch.cu_seqlens.push_back(0);
      while (sequence < shape.sequences) {
        const int room = max_batch_tokens_ - static_cast<int>(batch.tokens.size());
        const int piece = std::min(room, shape.length - position);
        if (piece == 0) break;
        for (int t = position; t < position + piece; ++t) {
          batch.tokens.push_back((sequence * 131 + t * 17 + 5) % model_.config().vocab_size);
        }
        batch.slots.push_back(sequence);
        batch.positions.push_back(position);
        batch.cu_seqlens.push_back(static_cast<int>(batch.tokens.size()));
        position += piece;
        if (position < shape.length) break;
        batch.logits_rows.push_back(static_cast<int>(batch.tokens.size()) - 1);
        position = 0;
        ++sequence;
      }
      model_.Forward(batch, pool_);
    }
  }

  void RunSteps(int sequences, float temperature, int steps) {
    const bool ahead = model_.stream().device().is_cuda();
    fla::Batch batch;
    batch.num_decode = sequences;
    batch.sampled = sampler_.tokens();
    batch.cu_seqlens.push_back(0);
    for (int i = 0; i < sequences; ++i) {
      batch.tokens.push_back(i % model_.config().vocab_size);
      batch.slots.push_back(i);
      batch.positions.push_back(64);
      batch.cu_seqlens.push_back(i + 1);
      batch.logits_rows.push_back(i);
    }
    std::vector<fla::SampleRequest> requests(sequences);
    for (fla::SampleRequest& request : requests) request.row.temperature = temperature;
    fla::DeviceTime last_end = 0;
    const auto collect = [&] {
      sampler_.Collect();
      const fla::StepTimes& times = sampler_.times();
      if (last_end > 0) gaps_.push_back(1e-9 * static_cast<double>(times.began - last_end));
      last_end = times.ended;
    };
    for (int step = 0; step < steps; ++step) {
      sampler_.Prepare(requests);
      const fla::ForwardResult result = model_.Forward(batch, pool_);
      sampler_.Launch(result.logits, result.began);
      for (int i = 0; i < sequences; ++i) {
        batch.tokens[i] = -1 - i;
        ++batch.positions[i];
      }
      if (!ahead || step > 0) collect();
    }
    if (ahead) collect();
  }

  fla::Model& model_;
  bool profile_;
  int max_batch_tokens_;
  fla::StatePool pool_;
  fla::Sampler sampler_;
  std::vector<double> gaps_;
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Prefill and decode speed of a checkpoint");
  fla::bench::CheckpointOptions options;
  options.AddTo(app);
  std::string prefill = "1x512,16x512";
  std::vector<int> decode = {1, 16};
  int max_batch_tokens = 8192;
  double seconds = 3;
  float temperature = 0;
  app.add_option("--prefill", prefill, "Prompts: SEQUENCESxLENGTH, separated by commas");
  app.add_option("--decode", decode, "Sequences a step")->delimiter(',');
  app.add_option("--max-batch-tokens", max_batch_tokens, "Tokens a batch")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--temperature", temperature, "Of the decode steps' sampling");
  app.add_option("--seconds", seconds, "Time a row");
  bool profile = false;
  app.add_flag("--profile", profile, "Run each row once, for a profiler");
  CLI11_PARSE(app, argc, argv);

  try {
    const std::vector<Shape> shapes = ParseShapes(prefill);
    int slots = 1;
    for (const Shape& shape : shapes) slots = std::max(slots, shape.sequences);
    for (const int sequences : decode) slots = std::max(slots, sequences);
    max_batch_tokens = std::max(max_batch_tokens, slots);
    const auto model = fla::Model::Load(options.ForLoad(max_batch_tokens));
    std::printf("%s, %.1fM parameters, %.1f MB, %s\n", model->config().model_type.c_str(),
                static_cast<double>(model->parameters()) / 1e6,
                static_cast<double>(model->weight_bytes()) / 1e6, options.Describe().c_str());
    std::printf("%-8s %10s %12s %12s %10s %10s\n", "phase", "shape", "ms", "tokens/s", "in GEMM",
                "gap us");
    const bool stopwatch = !model->stream().device().is_cuda();
    const auto report = [&](const char* phase, const std::string& shape, int tokens, Speed speed) {
      std::printf("%-8s %10s %12.3f %12.0f ", phase, shape.c_str(), 1e3 * speed.median_seconds,
                  tokens / speed.median_seconds);
      if (stopwatch) {
        std::printf("%9.0f%%", 100 * speed.linear_share);
      } else {
        std::printf("%10s", "-");
      }
      if (speed.gap_seconds > 0) std::printf(" %10.2f", 1e6 * speed.gap_seconds);
      std::printf("\n");
      std::fflush(stdout);
    };
    Runner runner(*model, slots, max_batch_tokens, options.states(), profile);
    for (const Shape& shape : shapes) {
      report("prefill", std::to_string(shape.sequences) + "x" + std::to_string(shape.length),
             shape.sequences * shape.length, runner.MeasurePrefill(shape, seconds));
    }
    for (const int sequences : decode) {
      if (sequences == 0) continue;  // --decode 0: none
      report("decode", std::to_string(sequences), sequences,
             runner.MeasureDecode(sequences, temperature, seconds));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
