#include "server/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace fla {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ServerOptions Parse(const std::string& text) { return ParseServerOptions(text, "/etc/fla/s.json"); }

// The message that a bad file gives; fails the test if it is taken.
std::string ErrorOf(const std::string& text) {
  try {
    Parse(text);
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), ::testing::MatchesRegex("/etc/fla/s\\.json:[0-9]+: (.|\n)*"));
    return error.what();
  }
  ADD_FAILURE() << "taken: " << text;
  return "";
}

std::string WithModel(const std::string& rest) {
  return R"({"models": [{"name": "a", "path": "m"}])" + rest + "}";
}
std::string Model(const std::string& rest) {
  return R"({"models": [{"name": "a", "path": "m")" + rest + "}]}";
}

TEST(Options, FillsDefaults) {
  const ServerOptions options = Parse(WithModel(""));
  EXPECT_EQ(options.listen, "127.0.0.1:50051");
  EXPECT_EQ(options.metrics_listen, "");
  EXPECT_EQ(options.default_model, "a");
  ASSERT_EQ(options.models.size(), 1u);
  EXPECT_EQ(options.models[0].device, "auto");
  EXPECT_EQ(options.models[0].dtype, DType::kF32);
  EXPECT_EQ(options.models[0].state_dtype, DType::kF32);
  EXPECT_EQ(options.models[0].state_replay, 0);
  EXPECT_TRUE(options.models[0].aliases.empty());
  EXPECT_TRUE(options.models[0].preload && options.models[0].pinned);
  EXPECT_EQ(options.models[0].when_full, WhenFull::kRefuse);
  EXPECT_FALSE(options.models[0].sampling.temperature.has_value());
  EXPECT_TRUE(options.memory_bytes.empty());
  EXPECT_EQ(options.checkpoint_poll_seconds, 5.0);
  EXPECT_EQ(options.limits.max_logprobs, Limits().max_logprobs);
  EXPECT_FALSE(options.metrics_vllm_names);
  EXPECT_EQ(options.drain_timeout_seconds, 30.0);
  EXPECT_EQ(options.log.level, "info");
}

TEST(Options, ReadsEveryKey) {
  const ServerOptions options = Parse(R"({
    "listen": "[::1]:0", "metrics_listen": "0.0.0.0:9090",
    "models": [
      {"name": "a", "aliases": ["a1", "a2"], "path": "x/../y", "device": "cuda:3",
       "dtype": "bf16", "weight_dtype": "fp8_e4m3",
       "state_dtype": "bf16", "slots": 7, "max_batch_tokens": 99, "max_prefill_tokens": 199,
       "load": "on_demand", "pinned": true, "when_full": "drain_then_load",
       "sampling": {"temperature": 0.5, "top_k": 3, "top_p": 0.75, "min_p": 0.25,
                    "repetition_penalty": 1.5}},
      {"name": "b", "path": "/abs", "device": "cpu", "dtype": "f32", "load": "on_demand"},
      {"name": "c", "path": "c", "dtype": "bf16", "state_replay": 4}],
    "default_model": "b",
    "memory_mib": {"cpu": 2, "cuda:3": 1000},
    "checkpoint_poll_seconds": 0.5,
    "limits": {"max_prompt_tokens": 1, "max_new_tokens": 2, "default_max_new_tokens": 1, "max_n": 4,
      "max_stop_strings": 5, "max_stop_string_bytes": 6, "max_stop_token_ids": 7,
      "max_logprobs": 8, "max_logit_bias": 9, "max_queued_requests": 10, "max_unread_events": 11,
      "max_message_bytes": 4096, "max_prompt_logprob_entries": 12, "max_priority": 13,
      "max_concurrent_streams": 14, "max_queued_tokens": 15000000000, "max_request_seconds": 16.5,
      "priority_aging_seconds": 0, "max_embed_inputs": 10, "max_embed_bytes": 17},
    "metrics_vllm_names": true,
    "drain_timeout_seconds": 1.5,
    "tls": {"certificate": "c.pem", "private_key": "/k.pem", "client_ca": "../ca.pem"},
    "api_keys": "keys",
    "connections": {"keepalive_seconds": 1, "keepalive_timeout_seconds": 2,
      "min_ping_interval_seconds": 3, "max_idle_seconds": 4, "max_age_seconds": 5,
      "max_age_grace_seconds": 6.5},
    "log": {"level": "debug", "requests": false, "prompts": true, "format": "json"}})");
  EXPECT_EQ(options.listen, "[::1]:0");
  EXPECT_EQ(options.metrics_listen, "0.0.0.0:9090");
  ASSERT_EQ(options.models.size(), 3u);
  EXPECT_EQ(options.models[2].state_replay, 4);
  EXPECT_EQ(options.models[0].path, "/etc/fla/y");
  EXPECT_EQ(options.models[0].device, "cuda:3");
  EXPECT_EQ(options.models[0].dtype, DType::kBF16);
  EXPECT_EQ(options.models[0].slots, 7);
  EXPECT_EQ(options.models[0].max_batch_tokens, 99);
  EXPECT_EQ(options.models[0].max_prefill_tokens, 199);
  EXPECT_THAT(options.models[0].aliases, ElementsAre("a1", "a2"));
  EXPECT_EQ(options.models[0].weight_dtype, DType::kF8E4M3);
  EXPECT_EQ(options.models[0].state_dtype, DType::kBF16);
  EXPECT_FALSE(options.models[0].preload);
  EXPECT_TRUE(options.models[0].pinned);
  EXPECT_EQ(options.models[0].when_full, WhenFull::kDrainThenLoad);
  EXPECT_EQ(options.models[0].sampling.temperature, 0.5f);
  EXPECT_EQ(options.models[0].sampling.top_k, 3);
  EXPECT_EQ(options.models[0].sampling.top_p, 0.75f);
  EXPECT_EQ(options.models[0].sampling.min_p, 0.25f);
  EXPECT_EQ(options.models[0].sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(options.models[1].path, "/abs");
  EXPECT_FALSE(options.models[1].preload || options.models[1].pinned);
  EXPECT_EQ(options.memory_bytes.at("cpu"), 2 << 20);
  EXPECT_EQ(options.memory_bytes.at("cuda:3"), int64_t{1000} << 20);
  EXPECT_EQ(options.checkpoint_poll_seconds, 0.5);
  EXPECT_EQ(options.default_model, "b");
  EXPECT_EQ(options.limits.max_prompt_tokens, 1);
  EXPECT_EQ(options.limits.max_new_tokens, 2);
  EXPECT_EQ(options.limits.default_max_new_tokens, 1);
  EXPECT_EQ(options.limits.max_n, 4);
  EXPECT_EQ(options.limits.max_stop_strings, 5);
  EXPECT_EQ(options.limits.max_stop_string_bytes, 6);
  EXPECT_EQ(options.limits.max_stop_token_ids, 7);
  EXPECT_EQ(options.limits.max_logprobs, 8);
  EXPECT_EQ(options.limits.max_logit_bias, 9);
  EXPECT_EQ(options.limits.max_queued_requests, 10);
  EXPECT_EQ(options.limits.max_unread_events, 11);
  EXPECT_EQ(options.limits.max_message_bytes, 4096);
  EXPECT_EQ(options.limits.max_prompt_logprob_entries, 12);
  EXPECT_EQ(options.limits.max_priority, 13);
  EXPECT_EQ(options.limits.max_concurrent_streams, 14);
  EXPECT_EQ(options.limits.max_queued_tokens, 15000000000);
  EXPECT_EQ(options.limits.max_request_seconds, 16.5);
  EXPECT_EQ(options.limits.priority_aging_seconds, 0);
  EXPECT_EQ(options.limits.max_embed_inputs, 10);
  EXPECT_EQ(options.limits.max_embed_bytes, 17);
  EXPECT_TRUE(options.metrics_vllm_names);
  EXPECT_EQ(options.drain_timeout_seconds, 1.5);
  EXPECT_EQ(options.tls.certificate, "/etc/fla/c.pem");
  EXPECT_EQ(options.tls.private_key, "/k.pem");
  EXPECT_EQ(options.tls.client_ca, "/etc/ca.pem");
  EXPECT_EQ(options.api_keys, "/etc/fla/keys");
  EXPECT_EQ(options.connections.keepalive, 1);
  EXPECT_EQ(options.connections.keepalive_timeout, 2);
  EXPECT_EQ(options.connections.min_ping_interval, 3);
  EXPECT_EQ(options.connections.max_idle, 4);
  EXPECT_EQ(options.connections.max_age, 5);
  EXPECT_EQ(options.connections.max_age_grace, 6.5);
  EXPECT_EQ(options.log.level, "debug");
  EXPECT_FALSE(options.log.requests);
  EXPECT_TRUE(options.log.prompts);
  EXPECT_TRUE(options.log.json);
}

TEST(Options, DefaultsFollowNarrowerBounds) {
  const ServerOptions options =
      Parse(WithModel(R"(, "limits": {"max_new_tokens": 5, "max_queued_requests": 3})"));
  EXPECT_EQ(options.limits.default_max_new_tokens, 5);
  EXPECT_EQ(options.limits.max_n, 3);
}

TEST(Options, NamesKeyPathWantedAndGot) {
  EXPECT_THAT(
      ErrorOf(Model(R"(, "slots": 0)")),
      AllOf(HasSubstr("models[0].slots: wanted an integer from 1 to 65536"), HasSubstr("got 0")));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "limits": {"max_n": "4"})")),
              AllOf(HasSubstr("limits.max_n: wanted an integer"), HasSubstr("got \"4\"")));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "log": {"levle": "info"})")),
              AllOf(HasSubstr("log.levle: "), HasSubstr("level, prompts, requests")));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "port": 1)")), HasSubstr("port: "));
  EXPECT_THAT(ErrorOf(R"({"listen": "a:1"})"), HasSubstr("models: wanted"));
  EXPECT_THAT(ErrorOf(R"({"models": []})"), HasSubstr("models: wanted"));
  EXPECT_THAT(ErrorOf(R"({"models": [{"path": "m"}]})"), HasSubstr("models[0].name: wanted"));
  EXPECT_THAT(ErrorOf(R"({"models": [{"name": "m"}]})"), HasSubstr("models[0].path: wanted"));
  EXPECT_THAT(ErrorOf(R"({"models": [3]})"), HasSubstr("models[0]: wanted an object, got 3"));
  EXPECT_THAT(ErrorOf("[]"), HasSubstr("wanted an object"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "drain_timeout_seconds": 1e999)")),
              HasSubstr("the file: wanted JSON, got"));
}

TEST(Options, RefusesValuesOutOfRange) {
  for (const char* bad : {"-1", "1.5", "1e3", "true", "null", "99999999999", "18446744073709551615",
                          "-9223372036854775808", "\"7\"", "[7]"}) {
    EXPECT_THAT(ErrorOf(Model(std::string(R"(, "slots": )") + bad)), HasSubstr("models[0].slots"));
  }
  EXPECT_THAT(ErrorOf(Model(R"(, "dtype": "f16")")), HasSubstr("models[0].dtype"));
  EXPECT_THAT(ErrorOf(Model(R"(, "slots": 9, "max_batch_tokens": 8)")),
              HasSubstr("models[0].max_batch_tokens: wanted at least slots (9)"));
  EXPECT_THAT(ErrorOf(Model(R"(, "max_batch_tokens": 8, "max_prefill_tokens": 7)")),
              HasSubstr("models[0].max_prefill_tokens: wanted at least max_batch_tokens (8)"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "limits": {"max_logprobs": 21})")),
              HasSubstr("limits.max_logprobs"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "limits": {"max_priority": 10001})")),
              HasSubstr("limits.max_priority"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "limits": {"max_new_tokens": 3,
                                              "default_max_new_tokens": 4})")),
              HasSubstr("limits.default_max_new_tokens: wanted an integer from 0 to 3"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "drain_timeout_seconds": -0.5)")),
              HasSubstr("drain_timeout_seconds"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "log": {"level": "loud"})")), HasSubstr("log.level"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "log": {"format": "xml"})")), HasSubstr("log.format"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "default_model": "b")")), HasSubstr("default_model"));
  EXPECT_THAT(ErrorOf(R"({"models": [{"name": "a", "path": "m"}, {"name": "a", "path": "n"}]})"),
              HasSubstr("models[1].name: wanted a name that no other model or alias has"));
}

TEST(Options, NamesTheLine) {
  const std::string text =
      "{\n\"models\": [\n{\"name\": \"a\", \"path\": \"m\"},\n{\"name\": %}\n]}";
  const auto with = [&](const std::string& rest) {
    return ErrorOf(std::string(text).replace(text.find('%'), 1, rest));
  };
  EXPECT_THAT(with("\"a\",\n\n\"path\": \"n\""),
              HasSubstr("s.json:4: models[1].name: wanted a name that no other model"));
  EXPECT_THAT(with("\"b\",\n\n\"path\": 7"), HasSubstr("s.json:6: models[1].path: wanted a str"));
  EXPECT_THAT(with("\"b\",\n\"path\": \"n\",\n\"slot\": 7"),
              HasSubstr("s.json:6: models[1].slot: "));
  EXPECT_THAT(with("\"b\""), HasSubstr("s.json:4: models[1].path: wanted a string, got nothing"));
  EXPECT_THAT(with("\"b\",\n\n\"path\" 7"), HasSubstr("s.json:6: the file: wanted JSON"));
  EXPECT_THAT(with("\"b\",\n\"path\": \"n\",\n\"name\": \"c\""),
              HasSubstr("s.json:6: models[1].name: wanted once, got twice"));
}

TEST(Options, RefusesAliasesThatAreTaken) {
  const auto models = [](const std::string& first, const std::string& second) {
    return R"({"models": [{"name": "a", "path": "m", "aliases": [)" + first +
           R"(]}, {"name": "b", "path": "m", "aliases": [)" + second + "]}]}";
  };
  EXPECT_NO_THROW(Parse(models(R"("c", "d")", R"("e")")));
  EXPECT_THAT(ErrorOf(models(R"("c", "c")", "")), HasSubstr("models[0].aliases[1]: wanted a name"));
  EXPECT_THAT(ErrorOf(models(R"("a")", "")), HasSubstr("models[0].aliases[0]: wanted a name"));
  EXPECT_THAT(ErrorOf(models(R"("b")", "")), HasSubstr("models[1].name: wanted a name"));
  EXPECT_THAT(ErrorOf(models(R"("c")", R"("c")")), HasSubstr("models[1].aliases[0]: wanted a nam"));
  EXPECT_THAT(ErrorOf(models(R"("")", "")), HasSubstr("models[0].aliases[0]: wanted 1 to 128"));
  EXPECT_THAT(ErrorOf(models("1", "")), HasSubstr("models[0].aliases[0]: wanted a string"));
  EXPECT_THAT(ErrorOf(Model(R"(, "aliases": "c")")), HasSubstr("models[0].aliases: wanted a list"));
}

TEST(Options, KeepsModelPathsWithinTheRoot) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "root_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder / "models/a");
  std::filesystem::create_directories(folder / "models2");
  std::filesystem::create_directory_symlink(folder / "models2", folder / "models/out");
  std::filesystem::create_directory_symlink("a", folder / "models/in");
  const auto parse = [&](const std::string& path) {
    return ParseServerOptions(R"({"model_root": "models",
      "models": [{"name": "a",
                  "path": ")" + path +
                                  R"("}]})",
                              folder / "config.json");
  };
  EXPECT_EQ(parse("a").models[0].path, folder / "models/a");
  EXPECT_EQ(parse("b/../in").models[0].path, folder / "models/in");
  EXPECT_EQ(parse((folder / "models/a").string()).models[0].path, folder / "models/a");
  std::filesystem::create_symlink("loop", folder / "models/loop");
  try {
    parse("loop/a");
    ADD_FAILURE() << "taken";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("config.json:3: models[0].path: wanted a folder that can be looked for"));
    EXPECT_THAT(error.what(), HasSubstr("symbolic links"));
  }
  for (const std::string bad : {"..", "../models2", "a/../../models2", "/etc", "out", "out/b"}) {
    try {
      parse(bad);
      ADD_FAILURE() << "taken: " << bad;
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), HasSubstr("config.json:3: models[0].path: wanted a folder within"));
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(Options, RefusesWhatModelsCannotBe) {
  EXPECT_THAT(ErrorOf(Model(R"(, "load": "later")")), HasSubstr("models[0].load"));
  EXPECT_THAT(ErrorOf(Model(R"(, "when_full": "crash")")), HasSubstr("models[0].when_full"));
  EXPECT_THAT(ErrorOf(Model(R"(, "state_dtype": "bf16")")), HasSubstr("models[0].state_dtype"));
  for (const char* replay : {R"(, "state_replay": 1)", R"(, "state_replay": 9)",
                             R"(, "state_replay": -4)", R"(, "state_replay": 4, "device": "cpu")",
                             R"(, "dtype": "bf16", "state_dtype": "bf16", "state_replay": 4)"}) {
    EXPECT_THAT(ErrorOf(Model(replay)), HasSubstr("models[0].state_replay")) << replay;
  }
  for (const char* bad :
       {R"(, "weight_dtype": "fp8_e4m3")", R"(, "dtype": "bf16", "weight_dtype": "f32")",
        R"(, "dtype": "bf16", "weight_dtype": "fp8")", R"(, "weight_dtype": 8)"}) {
    EXPECT_THAT(ErrorOf(Model(bad)), HasSubstr("models[0].weight_dtype")) << bad;
  }
  EXPECT_THAT(ErrorOf(Model(R"(, "sampling": {"top_p": 0})")),
              HasSubstr("models[0].sampling.top_p"));
  EXPECT_THAT(ErrorOf(Model(R"(, "sampling": {"seed": 1})")), HasSubstr("models[0].sampling.seed"));
  EXPECT_THAT(ErrorOf(WithModel(R"(, "memory_mib": {"cpu": 0})")), HasSubstr("memory_mib.cpu"));
  for (const std::string bad :
       {"gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:0 "}) {
    EXPECT_THAT(ErrorOf(WithModel(R"(, "memory_mib": {")" + bad + R"(": 1})")),
                HasSubstr("memory_mib." + bad));
  }
  EXPECT_THAT(ErrorOf(WithModel(R"(, "checkpoint_poll_seconds": -1)")),
              HasSubstr("checkpoint_poll_seconds"));
}

TEST(Options, ChecksDevices) {
  for (const char* good : {"auto", "cpu", "cuda", "cuda:0", "cuda:15"}) {
    EXPECT_EQ(Parse(Model(std::string(R"(, "device": ")") + good + "\"")).models[0].device, good);
  }
  for (const char* bad : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda0", "cpu:0"}) {
    EXPECT_THAT(ErrorOf(Model(std::string(R"(, "device": ")") + bad + "\"")),
                HasSubstr("models[0].device"));
  }
}

TEST(Options, ChecksAddresses) {
  for (const char* good : {"localhost:0", "0.0.0.0:65535", "[::]:1", "unix:/run/fla.sock"}) {
    EXPECT_EQ(Parse(WithModel(std::string(R"(, "listen": ")") + good + "\"")).listen, good);
  }
  for (const char* bad : {"", "localhost", ":1", "a:", "a:65536", "a:-1", "a:1x", "unix:"}) {
    EXPECT_THAT(ErrorOf(WithModel(std::string(R"(, "listen": ")") + bad + "\"")),
                HasSubstr("listen: wanted"));
  }
  EXPECT_THAT(ErrorOf(WithModel(R"(, "metrics_listen": "unix:/x")")), HasSubstr("metrics_listen"));
}

TEST(Options, RefusesBrokenAndDoubledJson) {
  EXPECT_THAT(ErrorOf("{"), HasSubstr("wanted JSON"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("wanted JSON"));
  EXPECT_THAT(ErrorOf("{} x"), HasSubstr("wanted JSON"));
  EXPECT_THAT(ErrorOf("\"\xff\""), HasSubstr("wanted JSON"));
  EXPECT_THAT(ErrorOf(std::string("\"[\"\0]", 5)), HasSubstr("wanted JSON, got a zero byte"));
  EXPECT_THAT(ErrorOf(Model(R"(, "slots": 1, "slots": 2)")), HasSubstr("slots: wanted once"));
  // The same key in two objects is no double.
  EXPECT_NO_THROW(Parse(R"({"models": [{"name": "a", "path": "m"}, {"name": "b", "path": "m"}]})"));
}

TEST(Options, RefusesAFileThatIsNotThere) {
  EXPECT_THROW(LoadServerOptions("/nonexistent/config.json"), std::runtime_error);
  EXPECT_THROW(LoadServerOptions("/"), std::runtime_error);
}

TEST(Options, TheDemoConfigIsValid) {
  const ServerOptions options = LoadServerOptions(FLA_SOURCE_DIR "/configs/demo.json");
  EXPECT_EQ(options.models[0].path, std::filesystem::path(FLA_SOURCE_DIR) / "demo/model");
}

}  // namespace
}  // namespace fla
