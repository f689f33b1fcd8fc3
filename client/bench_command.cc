#include "client/bench_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>

#include "fla/v1/control.grpc.pb.h"
#include "fla/v1/inference.grpc.pb.h"

namespace fla::client {
namespace {

// Text as an option that `parse` understands; what it throws is the option's error.
template <typename Parse>
void AddParsed(CLI::App& app, const std::string& name, Parse parse, const std::string& text) {
  app.add_option_function<std::string>(
      name,
      [name, parse](const std::string& value) {
        try {
          parse(value);
        } catch (const std::invalid_argument& error) {
          throw CLI::ValidationError(name, error.what());
        }
      },
      text);
}

// The version of a model that serves, or else the first of its name or alias.
v1::ModelInfo AskFor(v1::Control::Stub& stub, const Connection& connection,
                     const std::string& name) {
  const auto models = Call(connection, stub, &v1::Control::Stub::ListModels, {});
  const v1::ModelInfo* found = nullptr;
  for (const v1::ModelInfo& model : models.models()) {
    const auto& aliases = model.aliases();
    if (model.name() != name && std::find(aliases.begin(), aliases.end(), name) == aliases.end()) {
      continue;
    }
    if (found == nullptr || model.state() == v1::MODEL_STATE_SERVING) found = &model;
  }
  if (found == nullptr) throw std::runtime_error("the server has no model " + name);
  return *found;
}

v1::ModelInfo FindModel(const Connection& connection, const std::string& name) {
  const std::shared_ptr<grpc::Channel> channel = connection.Open();
  const auto control = v1::Control::NewStub(channel);
  const auto server = Call(connection, *control, &v1::Control::Stub::GetServerInfo, {});
  const std::string& wanted = name.empty() ? server.default_model() : name;
  v1::ModelInfo model = AskFor(*control, connection, wanted);
  if (model.state() != v1::MODEL_STATE_SERVING) {
    // Its sizes are known when it is loaded, for which a request is enough.
    v1::GenerateRequest request;
    request.set_model(wanted);
    request.mutable_token_ids()->add_ids(0);
    request.set_max_new_tokens(1);
    const auto inference = v1::Inference::NewStub(channel);
    Call(connection, *inference, &v1::Inference::Stub::Generate, request);
    model = AskFor(*control, connection, wanted);
  }
  if (model.vocab_size() == 0) {
    throw std::runtime_error("model " + wanted + " has no vocabulary to make prompts of");
  }
  return model;
}

// A line on a terminal that is written over; nothing elsewhere.
class ProgressBar {
 public:
  ProgressBar(const LoadOptions& load, const char* title)
      : load_(load), title_(title), visible_(isatty(STDERR_FILENO) == 1) {}

  void Show(const LoadProgress& progress) const {
    if (!visible_) return;
    constexpr int kWidth = 30;
    double share = 0;
    if (load_.requests) {
      share = static_cast<double>(progress.finished) / static_cast<double>(*load_.requests);
    }
    if (load_.duration_seconds) {
      share = std::max(share, progress.seconds / *load_.duration_seconds);
    }
    const int filled = static_cast<int>(std::min(share, 1.0) * kWidth);
    std::fprintf(
        stderr, "\r%s [%s%s] %3.0f%% %lld done, %lld running, %lld failed, %.0f tokens/s ", title_,
        std::string(filled, '#').c_str(), std::string(kWidth - filled, '.').c_str(),
        std::min(share, 1.0) * 100, static_cast<long long>(progress.finished),
        static_cast<long long>(progress.started - progress.finished),
        static_cast<long long>(progress.failed),
        progress.seconds > 0 ? static_cast<double>(progress.completion_tokens) / progress.seconds
                             : 0.0);
  }
  void End() const {
    if (visible_) std::fprintf(stderr, "\n");
  }

 private:
  const LoadOptions& load_;
  const char* title_;
  const bool visible_;
};

std::vector<RequestRecord> RunWithProgress(const Connection& connection, const LoadOptions& load,
                                           const PlanOptions& plan, const char* title) {
  const ProgressBar bar(load, title);
  std::vector<RequestRecord> records =
      RunLoad(connection, load, LoadPlan(plan),
              [&bar](const LoadProgress& progress) { bar.Show(progress); });
  bar.End();
  return records;
}

std::map<std::string, std::string> TitleOf(const Connection& connection,
                                           const BenchCommand& command,
                                           const v1::ModelInfo& model) {
  std::string load = "closed loop, " + std::to_string(command.load.concurrency) + " at a time";
  if (command.plan.rate) {
    char rate[32];
    std::snprintf(rate, sizeof(rate), "%g", *command.plan.rate);
    load = std::string("open loop, ") + rate + " requests/s, " +
           (command.plan.poisson ? "poisson" : "evenly spaced");
  }
  return {{"address", connection.address},
          {"model", model.name() + " (" + model.model_type() + ", " + model.device() + ", " +
                        model.dtype() + ")"},
          {"load", load},
          {"seed", std::to_string(command.plan.seed)}};
}

}  // namespace

void AddBench(CLI::App& app, BenchCommand& command) {
  LoadOptions& load = command.load;
  PlanOptions& plan = command.plan;
  auto* loop = app.add_option_group("load");
  loop->add_option("--concurrency", load.concurrency,
                   "Closed loop: this many requests at a time, the next when one ends")
      ->check(CLI::Range(1, 100000));
  loop->add_option("--rate", plan.rate,
                   "Open loop: this many requests a second, whether or not those before are done")
      ->check(CLI::PositiveNumber);
  loop->require_option(1);
  app.add_flag_callback(
      "--evenly", [&plan] { plan.poisson = false; },
      "Open loop: requests at even distances, not at random moments (Poisson)");
  app.add_option("--requests", load.requests, "End after this many requests")
      ->check(CLI::PositiveNumber);
  app.add_option("--duration", load.duration_seconds, "Start no request after this many seconds")
      ->check(CLI::PositiveNumber);
  app.add_option("--warmup", command.warmup, "Requests before the run that do not count")
      ->check(CLI::NonNegativeNumber);
  AddParsed(
      app, "--prompt-tokens",
      [&plan](const std::string& text) { plan.prompt_tokens = ParseLength(text); },
      "Length of prompts (random tokens): 128, 16-512 (uniform) or lognormal:MEDIAN:SIGMA:MOST; "
      "default 128");
  AddParsed(
      app, "--output-tokens",
      [&plan](const std::string& text) { plan.output_tokens = ParseLength(text); },
      "Tokens generated a request, likewise; default 128");
  app.add_option("--temperature", load.temperature, "Of the requests")->capture_default_str();
  app.add_option("--seed", plan.seed,
                 "The same seed sends the same requests; arrivals, lengths, prompts and sampling")
      ->capture_default_str();
  app.add_option("--cancel-fraction", plan.cancel_fraction,
                 "Share of the requests that are cancelled at a random token")
      ->check(CLI::Range(0.0, 1.0));
  AddParsed(
      app, "--goodput", [&command](const std::string& text) { command.bounds = ParseBounds(text); },
      "Count requests that keep these bounds, in milliseconds: ttft:500,tpot:50,e2e:10000");
  app.add_option("--connections", load.connections, "That requests take in turn")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--model", load.model, "Default: the server's default model");
  app.add_flag("--json", command.json, "Print the report as JSON");
  app.add_option("--output", command.output, "Write the JSON to this file as well")
      ->type_name("FILE");
}

int Bench(const Connection& connection, BenchCommand command) {
  if (!command.load.requests && !command.load.duration_seconds) command.load.requests = 100;
  const v1::ModelInfo model = FindModel(connection, command.load.model);
  command.plan.vocab_size = model.vocab_size();
  command.plan.excluded_tokens.assign(model.eos_token_ids().begin(), model.eos_token_ids().end());

  if (command.warmup > 0) {
    LoadOptions load = command.load;
    load.requests = command.warmup;
    load.duration_seconds.reset();
    PlanOptions plan = command.plan;
    plan.seed = ~plan.seed;
    RunWithProgress(connection, load, plan, "warmup");
  }
  const LoadReport report =
      Summarize(RunWithProgress(connection, command.load, command.plan, "bench "), command.bounds);

  const std::map<std::string, std::string> title = TitleOf(connection, command, model);
  const std::string json = ToJson(report, title);
  if (command.json) {
    std::cout << json << std::endl;
  } else {
    for (const auto& [key, value] : title) {
      std::cout << key << std::string(17 - key.size(), ' ') << value << "\n";
    }
    PrintTable(report, std::cout);
  }
  if (!command.output.empty()) {
    std::ofstream file(command.output);
    file << json << "\n";
    if (!file.flush()) throw std::runtime_error(command.output + ": cannot be written");
  }
  return report.failed == 0 ? 0 : 1;
}

}  // namespace fla::client
