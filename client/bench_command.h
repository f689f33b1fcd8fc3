// fla-cli bench: load, open- or closed-loop, and what it found.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "client/connection.h"
#include "client/load_plan.h"
#include "client/load_report.h"
#include "client/load_run.h"

namespace fla::client {

struct BenchCommand {
  LoadOptions load;
  PlanOptions plan;
  LatencyBounds bounds;
  int64_t warmup = 0;  // requests, before the run
  bool json = false;
  std::string output;  // a file for the JSON as well; empty: none
};

// Declares the command's options on `app`; `command` must outlive it.
void AddBench(CLI::App& app, BenchCommand& command);

// Runs it and prints the report to stdout, progress to stderr. Returns 0, or 1 if a request failed.
// Throws RpcError when the server cannot be asked what it serves.
int Bench(const Connection& connection, BenchCommand command);

}  // namespace fla::client
