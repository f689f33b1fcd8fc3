#include "client/commands.h"

#include <google/protobuf/util/json_util.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "fla/v1/control.grpc.pb.h"
#include "fla/v1/inference.grpc.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace fla::client {
namespace {

using Clock = std::chrono::steady_clock;

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  // The status type differs between protobuf versions; all have ok().
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (!status.ok()) throw std::runtime_error("the answer cannot be written as JSON");
  std::cout << text << std::endl;
}

void PrintChoice(const v1::Choice& choice, bool numbered) {
  if (numbered) std::cout << "--- choice " << choice.index() << "\n";
  std::cout << choice.text() << "\n";
}

void PrintLogprobs(const char* title,
                   const google::protobuf::RepeatedPtrField<v1::LogprobEntry>& entries) {
  if (entries.empty()) return;
  std::cout << "--- " << title << "\n";
  for (const v1::LogprobEntry& entry : entries) {
    std::printf("%d\t%.4f", entry.chosen().token_id(), entry.chosen().logprob());
    for (const v1::TokenLogprob& top : entry.top()) {
      std::printf("\t%d:%.4f", top.token_id(), top.logprob());
    }
    std::printf("\n");
  }
  std::fflush(stdout);
}

// `seen_first` is what this client measured, in seconds; 0 where it saw no first token.
void PrintStats(const v1::Usage& usage, const v1::Timings& timings, double seen_first,
                double seen_total) {
  std::fprintf(stderr, "prompt %d tokens, generated %d tokens\n", usage.prompt_tokens(),
               usage.completion_tokens());
  std::fprintf(stderr, "time to first token: %.1f ms", timings.first_token_seconds() * 1e3);
  if (seen_first > 0) std::fprintf(stderr, " (%.1f ms as seen here)", seen_first * 1e3);
  std::fprintf(stderr, "\nqueued %.1f ms, prefill %.1f ms, total %.1f ms (%.1f ms as seen here)\n",
               timings.queue_seconds() * 1e3, timings.prefill_seconds() * 1e3,
               timings.total_seconds() * 1e3, seen_total * 1e3);
  if (usage.completion_tokens() > 1 && timings.decode_seconds() > 0) {
    std::fprintf(stderr, "decode: %.1f tokens/s\n",
                 (usage.completion_tokens() - 1) / timings.decode_seconds());
  }
}

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void GenerateAtOnce(v1::Inference::Stub& stub, grpc::ClientContext& context,
                    const GenerateCommand& command) {
  const Clock::time_point begin = Clock::now();
  v1::GenerateResponse response;
  ThrowUnlessOk(stub.Generate(&context, command.request, &response));
  const double total = SecondsSince(begin);
  if (command.json) {
    PrintJson(response);
  } else {
    for (const v1::Choice& choice : response.choices()) {
      PrintChoice(choice, response.choices_size() > 1);
      PrintLogprobs("log-probabilities", choice.logprobs());
    }
    PrintLogprobs("log-probabilities of the prompt", response.prompt_logprobs());
  }
  if (command.stats) PrintStats(response.usage(), response.timings(), 0, total);
}

void GenerateStreamed(v1::Inference::Stub& stub, grpc::ClientContext& context,
                      const GenerateCommand& command) {
  const Clock::time_point begin = Clock::now();
  double first = 0;
  v1::GenerateStreamResponse message;
  v1::Usage usage;
  v1::Timings timings;
  const auto reader = stub.GenerateStream(&context, command.request);
  while (reader->Read(&message)) {
    if (first == 0 && message.delta().token_ids_size() > 0) first = SecondsSince(begin);
    if (command.json) {
      PrintJson(message);
    } else {
      std::cout << message.delta().text() << std::flush;
    }
    if (message.has_usage()) {
      usage = message.usage();
      timings = message.timings();
    }
  }
  if (!command.json) std::cout << std::endl;
  ThrowUnlessOk(reader->Finish());
  if (command.stats) PrintStats(usage, timings, first, SecondsSince(begin));
}

// A token's bytes on one line.
std::string Escape(const std::string& bytes) {
  std::string text = "\"";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      text += {'\\', c};
    } else if (byte >= 0x20 && byte < 0x7f) {
      text += c;
    } else {
      char code[5];
      std::snprintf(code, sizeof(code), "\\x%02x", byte);
      text += code;
    }
  }
  return text + "\"";
}

// Number `column` of row `row`; NaN where the server sent fewer.
float At(const v1::Vectors& vectors, int row, int column) {
  const size_t at = (static_cast<size_t>(row) * vectors.columns() + column) * sizeof(float);
  float value = NAN;
  if (at + sizeof(float) <= vectors.values().size()) {
    std::memcpy(&value, vectors.values().data() + at, sizeof(float));
  }
  return value;
}

// {"tokens":3,"vectors":[[0.25,..],..]}, each number with the digits that tell it from any other.
void PrintVectorsAsJson(const v1::Embedding& embedding) {
  const v1::Vectors& vectors = embedding.vectors();
  std::cout << "{\"tokens\":" << embedding.tokens() << ",\"vectors\":[";
  for (int row = 0; row < vectors.rows(); ++row) {
    std::cout << (row > 0 ? ",[" : "[");
    for (int column = 0; column < vectors.columns(); ++column) {
      char number[32];
      std::snprintf(number, sizeof(number), "%s%.9g", column > 0 ? "," : "",
                    At(vectors, row, column));
      std::cout << number;
    }
    std::cout << "]";
  }
  std::cout << "]}\n";
}

// "7 tokens, 1 x 384: 0.0312 -1.25 ..", a line a vector.
void PrintVectorHeads(const v1::Embedding& embedding) {
  constexpr int kHead = 8;  // numbers
  const v1::Vectors& vectors = embedding.vectors();
  std::cout << embedding.tokens() << " tokens, " << vectors.rows() << " x " << vectors.columns();
  for (int row = 0; row < vectors.rows(); ++row) {
    std::cout << (vectors.rows() == 1 ? ":" : "\n ");
    for (int column = 0; column < std::min(kHead, vectors.columns()); ++column) {
      char number[32];
      std::snprintf(number, sizeof(number), " %.4g", At(vectors, row, column));
      std::cout << number;
    }
    if (vectors.columns() > kHead) std::cout << " ..";
  }
  std::cout << "\n";
}

// "serving", "loading 42%"
std::string StateOf(const v1::ModelInfo& model) {
  std::string state = v1::ModelState_Name(model.state()).substr(std::strlen("MODEL_STATE_"));
  for (char& c : state) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (model.state() == v1::MODEL_STATE_LOADING) {
    state.append(" ").append(std::to_string(static_cast<int>(model.load_fraction() * 100)));
    state += '%';
  }
  return state;
}

// "  also stories, main"; nothing for a model without aliases.
std::string AliasesOf(const v1::ModelInfo& model) {
  std::string text;
  for (const std::string& alias : model.aliases()) {
    text += (text.empty() ? "  also " : ", ") + alias;
  }
  return text;
}

// "14.7"
std::string Decimal(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f", number);
  return text;
}

}  // namespace

int Generate(const Connection& connection, const GenerateCommand& command) {
  const auto stub = v1::Inference::NewStub(connection.Open());
  grpc::ClientContext context;
  connection.Apply(context);
  if (command.stream) {
    GenerateStreamed(*stub, context, command);
  } else {
    GenerateAtOnce(*stub, context, command);
  }
  return 0;
}

int Embed(const Connection& connection, const EmbedCommand& command) {
  const auto stub = v1::Inference::NewStub(connection.Open());
  const auto response = Call(connection, *stub, &v1::Inference::Stub::Embed, command.request);
  for (const v1::Embedding& embedding : response.embeddings()) {
    if (command.binary) {
      std::cout << embedding.vectors().values();
    } else if (command.json) {
      PrintVectorsAsJson(embedding);
    } else {
      PrintVectorHeads(embedding);
    }
  }
  std::cout << std::flush;
  return 0;
}

int Tokenize(const Connection& connection, const v1::TokenizeRequest& request, bool ids_only) {
  const auto stub = v1::Inference::NewStub(connection.Open());
  const auto response = Call(connection, *stub, &v1::Inference::Stub::Tokenize, request);
  for (int i = 0; i < response.ids_size(); ++i) {
    if (ids_only) {
      std::cout << (i > 0 ? " " : "") << response.ids(i);
    } else {
      std::cout << response.ids(i) << "\t" << Escape(response.tokens(i)) << "\n";
    }
  }
  if (ids_only) std::cout << "\n";
  return 0;
}

int Detokenize(const Connection& connection, const v1::DetokenizeRequest& request) {
  const auto stub = v1::Inference::NewStub(connection.Open());
  const auto response = Call(connection, *stub, &v1::Inference::Stub::Detokenize, request);
  std::cout << response.text() << "\n";
  return 0;
}

int ListModels(const Connection& connection) {
  const auto stub = v1::Control::NewStub(connection.Open());
  const auto server = Call(connection, *stub, &v1::Control::Stub::GetServerInfo, {});
  const auto models = Call(connection, *stub, &v1::Control::Stub::ListModels, {});
  std::printf("fla-server %s (%s), up %.0f s\n", server.version().c_str(), server.build().c_str(),
              server.uptime_seconds());
  int name_width = 20, type_width = 15;
  for (const v1::ModelInfo& model : models.models()) {
    name_width = std::max(name_width, static_cast<int>(model.name().size()));
    type_width = std::max(type_width, static_cast<int>(model.model_type().size()));
  }
  std::printf("%-*s %-12s %-12s %-*s %10s %7s %-8s %-5s %9s %11s\n", name_width, "name", "version",
              "state", type_width, "type", "parameters", "vocab", "device", "dtype", "slots",
              "state/slot");
  for (const v1::ModelInfo& model : models.models()) {
    std::string parameters = "-", vocab = "-", slots = "-", state = "-";
    if (model.slots_total() > 0) {  // a version that is loaded
      parameters = Decimal(model.parameters() / 1e6) + "M";
      vocab = std::to_string(model.vocab_size());
      slots = std::to_string(model.slots_used()) + "/" + std::to_string(model.slots_total());
      state = Decimal(model.state_bytes_per_slot() / 1e3) + " kB";
    }
    std::printf("%-*s %-12s %-12s %-*s %10s %7s %-8s %-5s %9s %11s%s%s\n", name_width,
                model.name().c_str(), model.version().c_str(), StateOf(model).c_str(), type_width,
                model.model_type().c_str(), parameters.c_str(), vocab.c_str(),
                model.device().c_str(), model.dtype().c_str(), slots.c_str(), state.c_str(),
                model.name() == server.default_model() ? "  (default)" : "",
                AliasesOf(model).c_str());
    if (!model.failure().empty()) std::printf("  %s\n", model.failure().c_str());
  }
  if (!models.config_error().empty()) {
    std::printf("The config file is not in effect: %s\n", models.config_error().c_str());
  }
  return 0;
}

int CheckHealth(const Connection& connection, const std::string& service) {
  using grpc::health::v1::HealthCheckResponse;
  const auto stub = grpc::health::v1::Health::NewStub(connection.Open());
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  const auto response = Call(connection, *stub, &grpc::health::v1::Health::Stub::Check, request);
  std::cout << HealthCheckResponse::ServingStatus_Name(response.status()) << "\n";
  return response.status() == HealthCheckResponse::SERVING ? 0 : 1;
}

int Drain(const Connection& connection) {
  const auto stub = v1::Control::NewStub(connection.Open());
  const auto response = Call(connection, *stub, &v1::Control::Stub::Drain, {});
  std::printf("draining for at most %g s\n", response.timeout_seconds());
  return 0;
}

int LoadModel(const Connection& connection, const std::string& name) {
  const auto stub = v1::Control::NewStub(connection.Open());
  v1::LoadModelRequest request;
  request.set_name(name);
  const auto response = Call(connection, *stub, &v1::Control::Stub::LoadModel, request);
  std::printf("%s (%s) is %s\n", response.model().name().c_str(),
              response.model().version().c_str(), StateOf(response.model()).c_str());
  return 0;
}

int UnloadModel(const Connection& connection, const std::string& name) {
  const auto stub = v1::Control::NewStub(connection.Open());
  v1::UnloadModelRequest request;
  request.set_name(name);
  Call(connection, *stub, &v1::Control::Stub::UnloadModel, request);
  return 0;
}

int NewKey(const std::string& name, const std::string& role) {
  if (name.empty() || name[0] == '#' || name.find_first_of(" \t\r\n") != std::string::npos) {
    throw std::runtime_error("name: wanted one word that does not begin with #, got \"" + name +
                             "\"");
  }
  const auto hex_of = [](const unsigned char* bytes, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) {
      char digits[3];
      std::snprintf(digits, sizeof(digits), "%02x", bytes[i]);
      text += digits;
    }
    return text;
  };
  unsigned char random[32], hash[SHA256_DIGEST_LENGTH];
  if (RAND_bytes(random, sizeof(random)) != 1) {
    throw std::runtime_error("the system gives no random numbers");
  }
  const std::string key = "fla-" + hex_of(random, sizeof(random));
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash);
  std::cout << key << std::endl;
  std::cerr << name << " " << role << " " << hex_of(hash, sizeof(hash)) << std::endl;
  return 0;
}

}  // namespace fla::client
