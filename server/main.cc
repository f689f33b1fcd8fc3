// fla-server: serves the models of one JSON file over gRPC.
#include <grpcpp/grpcpp.h>
#include <malloc.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <memory>
#include <thread>

#include "model/checkpoint_report.h"
#include "server/config_reloader.h"
#include "server/control_service.h"
#include "server/grpc_access.h"
#include "server/grpc_listen.h"
#include "server/health.h"
#include "server/inference_service.h"
#include "server/metrics.h"
#include "server/metrics_endpoint.h"
#include "server/model_registry.h"
#include "server/options.h"
#include "server/request_log.h"
#include "server/validation.h"
#include "server/writer_thread.h"

namespace fla {
namespace {

// For the last answers, whatever the drain timeout.
constexpr Clock::duration kMomentToLeave = std::chrono::seconds(2);

// The signals that end the server, and SIGHUP, which has it read its config again. Blocked in every
// thread, so that main can wait for them.
sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// The signal that came within the time, or 0.
int WaitForSignal(const sigset_t& signals, std::chrono::milliseconds time) {
  const timespec timeout = {time.count() / 1000, time.count() % 1000 * 1000000};
  return std::max(0, sigtimedwait(&signals, nullptr, &timeout));
}

std::unique_ptr<MetricsEndpoint> ExposeMetrics(const ServerOptions& options, Metrics& metrics) {
  metrics.SetBuild(ServerVersion(), ServerBuild());
  if (options.metrics_listen.empty()) return nullptr;
  return std::make_unique<MetricsEndpoint>(options.metrics_listen, metrics,
                                           options.metrics_vllm_names);
}

// Tells scripts which port was chosen: a number. The file appears whole or not at all.
void WritePortFile(const std::string& file, int port) {
  if (file.empty()) return;
  const std::string temporary = file + ".tmp";
  {
    std::ofstream stream(temporary);
    stream << port << "\n";
    if (!stream.flush()) throw std::runtime_error(file + ": cannot be written");
  }
  std::filesystem::rename(temporary, file);
}

// Where to write the chosen ports; empty: nowhere.
struct PortFiles {
  std::string grpc;
  std::string metrics;
};

// A config file as it was at the start.
struct Config {
  std::filesystem::path file;
  std::string text;
  ServerOptions options;
};

// Keys can be added and withdrawn under way; a file that is broken changes nothing.
void ReloadKeys(GrpcAccess& access) {
  try {
    access.Reload();
  } catch (const std::exception& error) {
    spdlog::error("{}; the keys are as they were", error.what());
  }
}

// The models that are there from the start. Loading may take long; a signal meanwhile ends the
// process, which has nothing to drain yet.
std::unique_ptr<ModelRegistry> LoadModels(const ServerOptions& options, Metrics& metrics,
                                          Health& health, const sigset_t& signals) {
  auto loading = std::async(std::launch::async, [&] {
    return std::make_unique<ModelRegistry>(
        options, metrics, [&health](const ModelTable& table) { health.Update(table); });
  });
  while (loading.wait_for(std::chrono::milliseconds(0)) != std::future_status::ready) {
    const int signal = WaitForSignal(signals, std::chrono::milliseconds(10));
    if (signal == 0 || signal == SIGHUP) continue;
    spdlog::info("signal {}: ending before the models are loaded", signal);
    spdlog::default_logger()->flush();
    std::_Exit(0);
  }
  return loading.get();
}

// Runs until SIGTERM or SIGINT, then drains. Returns the exit code.
int Serve(const Config& config, const PortFiles& port_files) {
  const ServerOptions& options = config.options;
  const sigset_t signals = BlockSignals();
  // Before models are loaded, which may take long.
  CheckTls(options.tls);
  CheckListen(options.listen);
  GrpcAccess access(options.api_keys);
  Metrics metrics;
  WriterThread writer;  // outlives the engines, which post to it
  const std::unique_ptr<MetricsEndpoint> metrics_endpoint = ExposeMetrics(options, metrics);
  Health health;
  const std::unique_ptr<ModelRegistry> models = LoadModels(options, metrics, health, signals);
  ModelRegistry& registry = *models;
  const RequestLog request_log(options.log);
  InferenceService inference({registry, options.limits, writer, access, &request_log});
  ControlService control(registry, access,
                         {[] { kill(getpid(), SIGTERM); }, options.drain_timeout_seconds});
  const Listening listening = Listen(options, {&inference, &control});

  health.Attach(*listening.server->GetHealthCheckService());
  const struct AtEnd {
    Health& health;
    ~AtEnd() { health.Shutdown(); }  // before its service goes with the server
  } at_end{health};
  ConfigReloader reloader(config.file, config.text, options, registry, metrics,
                          [&access] { ReloadKeys(access); });
  if (metrics_endpoint != nullptr) {
    const int port = metrics_endpoint->port();
    spdlog::info("metrics on port {}, /metrics", port);
    WritePortFile(port_files.metrics, port);
  }
  WritePortFile(port_files.grpc, listening.port);
  spdlog::info("serving on {}", listening.address);

  int signal = 0;
  bool healthy = true;
  while (signal == 0 && healthy) {
    signal = WaitForSignal(signals, std::chrono::milliseconds(200));
    if (signal == SIGHUP) {
      spdlog::info("SIGHUP: reading {} again", config.file.string());
      reloader.Trigger();
      signal = 0;
    }
    healthy = registry.Healthy();
  }
  // A process whose GPU has faulted cannot use it again: whoever watches it starts another.
  const std::string reason = healthy ? "signal " + std::to_string(signal) : "a model has failed";
  spdlog::log(healthy ? spdlog::level::info : spdlog::level::critical,
              "{}: draining for at most {} s; a second signal ends at once", reason,
              options.drain_timeout_seconds);
  health.Shutdown();  // NOT_SERVING from now on
  const Clock::time_point deadline =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(options.drain_timeout_seconds));
  std::future<bool> drained =
      std::async(std::launch::async, [&] { return registry.Drain(deadline); });
  std::future<void> closed = std::async(std::launch::async, [&] {
    const bool ended = drained.get();
    // Answers that are on their way, to clients that read slowly too, get the rest of the time, and
    // a moment at least.
    const Clock::time_point last = std::max(deadline, Clock::now() + kMomentToLeave);
    while (inference.open_calls() > 0 && Clock::now() < last) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    const bool all_left = inference.open_calls() == 0;
    const bool complete = ended && all_left;
    spdlog::log(complete ? spdlog::level::info : spdlog::level::warn,
                complete ? "drained" : "the drain timeout cut requests off");
    listening.server->Shutdown(std::chrono::system_clock::now() +
                               (all_left ? kMomentToLeave : Clock::duration::zero()));
  });
  while (closed.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    const int second = WaitForSignal(signals, std::chrono::milliseconds(20));
    if (second != 0 && second != SIGHUP) {
      spdlog::warn("second signal: ending at once");
      spdlog::default_logger()->flush();
      std::_Exit(1);
    }
  }
  spdlog::info("stopped");
  return healthy ? 0 : 1;
}

int CheckConfig(const std::string& file) {
  const ServerOptions options = LoadServerOptions(file);
  for (size_t i = 0; i < options.models.size(); ++i) {
    try {
      CheckModel(options.models[i]);
    } catch (const std::exception& error) {
      throw std::runtime_error(file + ": models[" + std::to_string(i) + "]: " + error.what());
    }
  }
  try {
    CheckTls(options.tls);
    const GrpcAccess keys(options.api_keys);
  } catch (const std::exception& error) {
    throw std::runtime_error(file + ": " + error.what());
  }
  std::cout << file << ": OK\n";
  return 0;
}

int Validate(const std::string& folder, bool as_json) {
  const CheckpointReport report = ExamineCheckpoint(folder);
  std::cout << (as_json ? ReportJson(report) : ReportText(report));
  return report.problems.empty() ? 0 : 1;
}

int Main(int argc, char** argv) {
  CLI::App app("Serves linear-attention language models over gRPC.", "fla-server");
  app.set_version_flag("--version",
                       std::string("fla-server ") + ServerVersion() + " (" + ServerBuild() + ")");
  std::string config, check, folder;
  bool as_json = false, print_table = false;
  PortFiles port_files;
  auto* mode = app.add_option_group("mode");
  mode->add_option("--config", config, "Serve what this JSON file says")->type_name("FILE");
  mode->add_option("--check-config", check, "Say what is wrong with a JSON file, and exit")
      ->type_name("FILE");
  auto* validate =
      mode->add_option("--validate", folder,
                       "Say what a checkpoint folder is, what it costs and all that keeps it from "
                       "being served, and exit: with 0 if nothing does")
          ->type_name("FOLDER");
  mode->add_flag("--print-support-table", print_table,
                 "Print the models and options that can be served, and exit");
  mode->require_option(1);
  app.add_flag("--json", as_json, "As JSON")->needs(validate);
  app.add_option("--port-file", port_files.grpc, "Write the chosen port to this file once serving")
      ->type_name("FILE");
  app.add_option("--metrics-port-file", port_files.metrics, "The same for the port of /metrics")
      ->type_name("FILE");
  CLI11_PARSE(app, argc, argv);

  try {
    if (!check.empty()) return CheckConfig(check);
    if (!folder.empty()) return Validate(folder, as_json);
    if (print_table) {
      std::cout << SupportTable();
      return 0;
    }
    std::string text = ReadConfigFile(config);
    ServerOptions options = ParseServerOptions(text, config);
    ConfigureLog(options.log);
    return Serve({config, std::move(text), std::move(options)}, port_files);
  } catch (const std::exception& error) {
    std::cerr << "fla-server: " << error.what() << "\n";
    return 1;
  }
}

}  // namespace
}  // namespace fla

int main(int argc, char** argv) {
  // Weights and states get mappings of their own, so that the memory of a model that has gone goes
  // back to the system whatever was allocated since. By default the bound grows with what is freed.
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  signal(SIGPIPE, SIG_IGN);  // whoever read the log may go; the requests stay
  return fla::Main(argc, argv);
}
