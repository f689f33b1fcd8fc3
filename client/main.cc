// fla-cli: a command line for a running fla-server.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include "client/bench_command.h"
#include "client/chat_command.h"
#include "client/commands.h"

namespace fla::client {
namespace {

// One optional field of a message: what is not said on the command line stays unset.
template <typename T, typename Set>
void AddField(CLI::App& app, const std::string& name, Set set, const std::string& text) {
  app.add_option_function<T>(
      name, [set](const T& value) { set(value); }, text);
}

template <typename Request>
void AddModel(CLI::App& app, Request& request) {
  AddField<std::string>(
      app, "--model", [&](const std::string& v) { request.set_model(v); },
      "Default: the server's default model");
}

template <typename Request>
void AddRequestId(CLI::App& app, Request& request) {
  AddField<std::string>(
      app, "--request-id", [&](const std::string& v) { request.set_request_id(v); },
      "For the server's log");
}

template <typename Request>
void AddPriority(CLI::App& app, Request& request) {
  AddField<int>(
      app, "--priority", [&](int v) { request.set_priority(v); }, "Lower is served first");
}

void AddSampling(CLI::App& app, v1::GenerateRequest& request) {
  const auto sampling = [&request]() -> v1::SamplingParams& { return *request.mutable_sampling(); };
  AddField<float>(
      app, "--temperature", [=](float v) { sampling().set_temperature(v); }, "0: greedy");
  AddField<int>(
      app, "--top-k", [=](int v) { sampling().set_top_k(v); }, "0: no limit");
  AddField<float>(
      app, "--top-p", [=](float v) { sampling().set_top_p(v); }, "in (0, 1]");
  AddField<float>(
      app, "--min-p", [=](float v) { sampling().set_min_p(v); }, "in [0, 1]");
  AddField<uint64_t>(
      app, "--seed", [=](uint64_t v) { sampling().set_seed(v); }, "For the same text again");
  AddField<float>(
      app, "--repetition-penalty", [=](float v) { sampling().set_repetition_penalty(v); }, "> 0");
  AddField<float>(
      app, "--presence-penalty", [=](float v) { sampling().set_presence_penalty(v); },
      "in [-2, 2]");
  AddField<float>(
      app, "--frequency-penalty", [=](float v) { sampling().set_frequency_penalty(v); },
      "in [-2, 2]");
}

void AddStops(CLI::App& app, v1::GenerateRequest& request) {
  AddField<int>(
      app, "--max-new-tokens", [&](int v) { request.set_max_new_tokens(v); },
      "0 with --prompt-logprobs: only score the prompt");
  AddField<int>(
      app, "--min-new-tokens", [&](int v) { request.set_min_new_tokens(v); },
      "Until then nothing stops the text");
  app.add_option_function<std::vector<std::string>>(
         "--stop",
         [&](const std::vector<std::string>& all) {
           for (const std::string& one : all) request.add_stop_strings(one);
         },
         "A string that ends the text; may be given again")
      ->allow_extra_args(false);
  app.add_option_function<std::vector<int>>(
         "--stop-token-id",
         [&](const std::vector<int>& all) {
           for (const int one : all) request.add_stop_token_ids(one);
         },
         "A token that ends the text; may be given again")
      ->allow_extra_args(false);
  app.add_flag_callback(
      "--include-stop-strings", [&] { request.set_include_stop_strings(true); },
      "Keep the stop string in the text");
  app.add_flag_callback(
      "--ignore-eos", [&] { request.set_ignore_eos(true); }, "Go on after the end of the text");
}

void AddGenerate(CLI::App& app, GenerateCommand& command) {
  v1::GenerateRequest& request = command.request;
  auto* prompt = app.add_option_group("prompt");
  prompt->add_option_function<std::string>(
      "--prompt", [&](const std::string& text) { request.set_text(text); }, "Text");
  prompt->add_option_function<std::string>(
      "--prompt-file", [&](const std::string& name) { request.set_text(ReadFile(name)); },
      "A file, - for standard input");
  prompt
      ->add_option_function<std::vector<int>>(
          "--token-ids",
          [&](const std::vector<int>& ids) {
            request.mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
          },
          "Tokens, taken as they are: 5,17,9")
      ->delimiter(',');
  prompt
      ->add_option_function<std::vector<std::string>>(
          "--message",
          [&](const std::vector<std::string>& all) {
            for (const std::string& one : all) {
              *request.mutable_chat()->add_messages() = ParseMessage(one);
            }
          },
          "role:content, a message for the model's chat template; may be given again")
      ->allow_extra_args(false);
  prompt->require_option(1);

  AddModel(app, request);
  AddRequestId(app, request);
  AddSampling(app, request);
  AddStops(app, request);
  AddField<int>(
      app, "--n", [&](int v) { request.set_n(v); }, "How many choices");
  AddField<int>(
      app, "--logprobs", [&](int v) { request.set_logprobs(v); },
      "Log-probabilities with this many alternatives");
  AddField<int>(
      app, "--prompt-logprobs", [&](int v) { request.set_prompt_logprobs(v); },
      "The same for the prompt");
  AddPriority(app, request);
  app.add_flag("--stream", command.stream, "Print the text as it comes");
  app.add_flag("--json", command.json, "Print the server's messages, one JSON object a line");
  app.add_flag("--stats", command.stats,
               "Print time to first token and tokens a second to standard error");
}

void AddEmbed(CLI::App& app, EmbedCommand& command) {
  v1::EmbedRequest& request = command.request;
  app.add_option_function<std::vector<std::string>>(
         "text",
         [&](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) request.add_inputs()->set_text(text);
         },
         "Texts, a vector each")
      ->required();
  AddModel(app, request);
  AddRequestId(app, request);
  app.add_option_function<std::string>(
         "--pooling",
         [&](const std::string& name) {
           request.set_pooling(name == "last"   ? v1::POOLING_LAST
                               : name == "mean" ? v1::POOLING_MEAN
                                                : v1::POOLING_ALL);
         },
         "last, mean or all: a vector a token. Default: the model's")
      ->check(CLI::IsMember({"last", "mean", "all"}));
  AddPriority(app, request);
  CLI::Option* json =
      app.add_flag("--json", command.json, "Print all numbers, a JSON object an input");
  app.add_flag("--binary", command.binary, "Print little-endian 32-bit floats and nothing else")
      ->excludes(json);
}

void AddChat(CLI::App& app, ChatCommand& command) {
  v1::GenerateRequest& request = command.request;
  AddField<std::string>(
      app, "--system",
      [&](const std::string& v) {
        v1::ChatMessage& message = *request.mutable_chat()->add_messages();
        message.set_role("system");
        message.set_content(v);
      },
      "What the conversation begins with");
  AddField<std::string>(
      app, "--template-arguments",
      [&](const std::string& v) { request.mutable_chat()->set_template_arguments(v); },
      "JSON for the chat template: '{\"enable_thinking\": false}'");
  AddField<std::string>(
      app, "--tools",
      [&](const std::string& name) { request.mutable_chat()->set_tools(ReadFile(name)); },
      "A file with a JSON array of functions' schemas");
  AddModel(app, request);
  AddSampling(app, request);
  AddStops(app, request);
}

int Main(int argc, char** argv) {
  CLI::App app("Talks to a running fla-server.", "fla-cli");
  app.set_version_flag("--version", "fla-cli " FLA_VERSION);
  Connection connection;
  app.add_option("--address", connection.address, "host:port of the server")->capture_default_str();
  app.add_option("--timeout", connection.timeout_seconds, "Seconds that the call may take")
      ->check(CLI::PositiveNumber);
  app.add_option("--ca", connection.ca_file, "PEM of who signed the server's certificate; TLS")
      ->type_name("FILE");
  auto* certificate = app.add_option("--certificate", connection.certificate_file,
                                     "PEM of our certificate, for mutual TLS")
                          ->type_name("FILE");
  app.add_option("--private-key", connection.key_file, "PEM of its key")
      ->type_name("FILE")
      ->needs(certificate);
  app.add_flag("--tls", connection.tls, "TLS with who the system trusts; --ca implies it");
  std::string api_key_file;
  app.add_option("--api-key-file", api_key_file, "Our API key; else $FLA_API_KEY, if set")
      ->type_name("FILE");
  app.require_subcommand(1);
  app.fallthrough();

  GenerateCommand generate;
  AddGenerate(*app.add_subcommand("generate", "Continue a prompt"), generate);

  ChatCommand chat;
  AddChat(*app.add_subcommand("chat", "Converse: a message a line, /reset to begin anew"), chat);

  EmbedCommand embed;
  AddEmbed(*app.add_subcommand("embed", "Turn texts into vectors"), embed);

  v1::TokenizeRequest text;
  bool ids_only = false, no_special = false;
  CLI::App& tokenize = *app.add_subcommand("tokenize", "Show the tokens of a text");
  AddField<std::string>(
      tokenize, "--model", [&](const std::string& v) { text.set_model(v); }, "Model");
  tokenize
      .add_option_function<std::string>(
          "text", [&](const std::string& v) { text.set_text(v); }, "Text")
      ->required();
  tokenize.add_flag("--ids-only", ids_only, "Only the ids, on one line");
  tokenize.add_flag("--no-special-tokens", no_special, "Add none");

  v1::DetokenizeRequest ids;
  bool skip_special = false;
  CLI::App& detokenize = *app.add_subcommand("detokenize", "Show the text of tokens");
  AddField<std::string>(
      detokenize, "--model", [&](const std::string& v) { ids.set_model(v); }, "Model");
  detokenize
      .add_option_function<std::vector<int>>(
          "ids",
          [&](const std::vector<int>& all) { ids.mutable_ids()->Add(all.begin(), all.end()); },
          "Token ids")
      ->required();
  detokenize.add_flag("--skip-special-tokens", skip_special, "Leave special tokens out");

  BenchCommand bench;
  CLI::App& load = *app.add_subcommand("bench", "Put load on the server and report latencies");
  AddBench(load, bench);

  CLI::App& models = *app.add_subcommand("models", "Show what the server serves");
  std::string load_name, unload_name;
  CLI::App& load_model = *app.add_subcommand(
      "load", "Load a model of the server's config, or what its checkpoint has become");
  load_model.add_option("name", load_name, "Default: the server's default model");
  CLI::App& unload_model = *app.add_subcommand("unload", "Take a model out of service");
  unload_model.add_option("name", unload_name, "Whose memory to return")->required();
  std::string service;
  std::string key_name, key_role = "user";
  CLI::App& new_key = *app.add_subcommand(
      "new-key", "Make an API key: the key to stdout, the line for the server's file to stderr");
  new_key.add_option("name", key_name, "Whose it is")->required();
  new_key.add_option("--role", key_role, "user or admin")
      ->check(CLI::IsMember({"user", "admin"}))
      ->capture_default_str();
  CLI::App& drain = *app.add_subcommand("drain", "Let the server finish what runs, and end");
  CLI::App& health = *app.add_subcommand("health", "Exit with 0 if the server is serving");
  health.add_option("--service", service, "One of its services, e.g. fla.v1.Inference");

  try {
    app.parse(argc, argv);
    if (generate.stream && !generate.json && generate.request.n() > 1) {
      throw CLI::ValidationError("--stream", "several choices need --json as well");
    }
    connection.tls |= !connection.ca_file.empty() || !connection.certificate_file.empty();
    if (const char* key = std::getenv("FLA_API_KEY")) connection.api_key = key;
    if (!api_key_file.empty()) connection.api_key = ReadFile(api_key_file);
    // Of a file, but for the end of the line.
    connection.api_key.erase(connection.api_key.find_last_not_of(" \r\n") + 1);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::cerr << "fla-cli: " << error.what() << "\n";
    return 2;
  }
  try {
    if (app.got_subcommand("generate")) return Generate(connection, generate);
    if (app.got_subcommand("chat")) return Chat(connection, chat);
    if (app.got_subcommand("embed")) return Embed(connection, embed);
    if (app.got_subcommand(&tokenize)) {
      text.set_add_special_tokens(!no_special);
      return Tokenize(connection, text, ids_only);
    }
    if (app.got_subcommand(&detokenize)) {
      ids.set_skip_special_tokens(skip_special);
      return Detokenize(connection, ids);
    }
    if (app.got_subcommand(&load)) return Bench(connection, bench);
    if (app.got_subcommand(&models)) return ListModels(connection);
    if (app.got_subcommand(&load_model)) return LoadModel(connection, load_name);
    if (app.got_subcommand(&unload_model)) return UnloadModel(connection, unload_name);
    if (app.got_subcommand(&new_key)) return NewKey(key_name, key_role);
    if (app.got_subcommand(&drain)) return Drain(connection);
    if (app.got_subcommand(&health)) return CheckHealth(connection, service);
  } catch (const std::exception& error) {
    std::cerr << "fla-cli: " << error.what() << "\n";
  }
  return 1;
}

}  // namespace
}  // namespace fla::client

int main(int argc, char** argv) {
  const int code = fla::client::Main(argc, argv);
  // A full disk is no success.
  if (std::cout.flush() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  std::cerr << "fla-cli: standard output: cannot be written\n";
  return code != 0 ? code : 1;
}
