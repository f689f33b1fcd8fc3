// The options of programs that run a checkpoint: which, where, and in what precision.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "kernels/state_replay.h"
#include "model/model.h"
#include "model/state_pool.h"

namespace fla::bench {

struct CheckpointOptions {
  std::string path, device = "cpu", dtype = "f32", weight_dtype, state_dtype = "f32";
  int state_replay = 0;

  // `this` must live as long as the app parses.
  void AddTo(CLI::App& app) {
    const auto dtypes = CLI::IsMember({"f32", "bf16"});
    app.add_option("checkpoint", path, "Checkpoint folder")->required();
    app.add_option("--device", device, "cpu, cuda:N or auto");
    app.add_option("--dtype", dtype, "f32 or bf16")->check(dtypes);
    app.add_option("--weight-dtype", weight_dtype, "Of projections, if not dtype")
        ->check(CLI::IsMember({"fp8_e4m3"}));
    app.add_option("--state-dtype", state_dtype, "f32 or bf16")->check(dtypes);
    app.add_option("--state-replay", state_replay, "States are written every so many steps")
        ->check(CLI::Range(0, kMaxReplaySteps));
  }

  LoadOptions ForLoad(int max_batch_tokens) const {
    LoadOptions options;
    options.path = path;
    options.device = ParseDevice(device);
    options.dtype = DTypeOf(dtype);
    if (!weight_dtype.empty()) options.weight_dtype = DType::kF8E4M3;
    options.max_batch_tokens = max_batch_tokens;
    return options;
  }
  StateFormat states() const { return {DTypeOf(state_dtype), state_replay}; }

  // For a report: "cpu, bf16 and fp8_e4m3, f32 states, replay 0".
  std::string Describe() const {
    return device + ", " + dtype + (weight_dtype.empty() ? "" : " and " + weight_dtype) + ", " +
           state_dtype + " states, replay " + std::to_string(state_replay);
  }

 private:
  static DType DTypeOf(const std::string& name) {
    return name == "f32" ? DType::kF32 : DType::kBF16;
  }
};

}  // namespace fla::bench
