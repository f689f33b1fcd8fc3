#include "server/request_log.h"

#include <spdlog/formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace fla {
namespace {

using Json = nlohmann::ordered_json;

// Of a client's texts, so that a line stays readable.
constexpr size_t kMostIdBytes = 256;
constexpr size_t kMostPromptBytes = 4096;

// Messages of this logger are JSON objects already.
constexpr std::string_view kJsonLogger = "request";

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// ISO 8601, UTC, milliseconds.
std::string TimeText(std::chrono::system_clock::time_point time) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count() % 1000;
  std::tm parts = {};
  gmtime_r(&seconds, &parts);
  char text[32];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  return std::string(text, length) + absl::StrFormat(".%03dZ", milliseconds);
}

class JsonLineFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const std::string_view payload(message.payload.data(), message.payload.size());
    const auto level = spdlog::level::to_string_view(message.level);
    Json head = {{"time", TimeText(message.time)},
                 {"level", std::string(level.data(), level.size())}};
    const bool is_object =
        std::string_view(message.logger_name.data(), message.logger_name.size()) == kJsonLogger;
    if (!is_object) head["message"] = payload;
    std::string line = Dump(head);
    if (is_object) {
      line.back() = ',';
      line += payload.substr(1);
    }
    line += '\n';
    out.append(line.data(), line.data() + line.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonLineFormatter>();
  }
};

std::string Quoted(const std::string& text) {
  return absl::StrCat("\"", absl::CEscape(text), "\"");
}

}  // namespace

void ConfigureLog(const LogOptions& options) {
  const auto level = spdlog::level::from_str(options.level);
  spdlog::drop("fla-server");
  spdlog::drop(std::string(kJsonLogger));
  if (options.json) {
    const auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    sink->set_formatter(std::make_unique<JsonLineFormatter>());
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("fla-server", sink));
    spdlog::register_logger(std::make_shared<spdlog::logger>(std::string(kJsonLogger), sink));
  } else {
    spdlog::set_default_logger(spdlog::stderr_color_mt("fla-server"));
  }
  spdlog::set_level(level);
}

std::string ToText(const RequestRecord& record) {
  std::string line = absl::StrFormat(
      "request id=%d client_id=%s model=%s choices=%d prompt_tokens=%d completion_tokens=%d",
      record.id, Quoted(record.client_id.substr(0, kMostIdBytes)),
      record.model.empty() ? "?" : record.model, record.choices, record.usage.prompt_tokens(),
      record.usage.completion_tokens());
  if (record.status.ok()) {
    const v1::Timings& times = record.timings;
    absl::StrAppendFormat(
        &line,
        " finish=%s queue=%.1fms prefill=%.1fms decode=%.1fms longest_gap=%.1fms total=%.1fms",
        absl::StrJoin(record.finish_reasons, ","), times.queue_seconds() * 1e3,
        times.prefill_seconds() * 1e3, times.decode_seconds() * 1e3,
        times.longest_gap_seconds() * 1e3, times.total_seconds() * 1e3);
  } else {
    const std::string message(record.status.message());
    absl::StrAppend(&line, " status=", absl::StatusCodeToString(record.status.code()),
                    " message=", Quoted(message));
  }
  if (record.trace) {
    absl::StrAppend(&line, " trace_id=", record.trace->trace_id,
                    " parent_id=", record.trace->parent_id);
  }
  if (!record.prompt.empty()) {
    absl::StrAppend(&line, " prompt=", Quoted(record.prompt.substr(0, kMostPromptBytes)));
  }
  return line;
}

std::string ToJson(const RequestRecord& record) {
  Json json = {{"event", "request"},
               {"id", record.id},
               {"client_id", record.client_id.substr(0, kMostIdBytes)},
               {"model", record.model},
               {"choices", record.choices},
               {"prompt_tokens", record.usage.prompt_tokens()},
               {"completion_tokens", record.usage.completion_tokens()},
               {"status", absl::StatusCodeToString(record.status.code())}};
  if (!record.status.ok()) {
    const std::string message(record.status.message());
    json["message"] = message;
  }
  json["finish_reasons"] = record.finish_reasons;
  json["queue_seconds"] = record.timings.queue_seconds();
  json["prefill_seconds"] = record.timings.prefill_seconds();
  json["decode_seconds"] = record.timings.decode_seconds();
  json["first_token_seconds"] = record.timings.first_token_seconds();
  json["longest_gap_seconds"] = record.timings.longest_gap_seconds();
  json["total_seconds"] = record.timings.total_seconds();
  if (record.trace) {
    json["trace_id"] = record.trace->trace_id;
    json["parent_id"] = record.trace->parent_id;
    json["sampled"] = record.trace->sampled;
  }
  if (!record.prompt.empty()) json["prompt"] = record.prompt.substr(0, kMostPromptBytes);
  return Dump(json);
}

void RequestLog::Write(const RequestRecord& record) const {
  if (!options_.requests) return;
  const auto json_logger = spdlog::get(std::string(kJsonLogger));
  if (options_.json && json_logger != nullptr) {
    json_logger->info("{}", ToJson(record));
  } else {
    spdlog::info("{}", ToText(record));
  }
}

}  // namespace fla
