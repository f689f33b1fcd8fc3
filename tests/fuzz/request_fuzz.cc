// Any bytes that a client sends as one of the protocol's requests are refused with a status that
// names a field, or become requests within every bound, which then run to their end. The first byte
// says which request the rest is.
#include <cmath>
#include <memory>
#include <string>

#include "fla/v1/control.pb.h"
#include "fla/v1/inference.pb.h"
#include "model/tokenizer.h"
#include "server/field_checks.h"
#include "server/result.h"
#include "server/sequence.h"
#include "server/translate.h"
#include "server/translate_embed.h"
#include "tests/fuzz/input_folder.h"

namespace {

using fla::fuzz::Require;

constexpr int kVocab = 4096;
constexpr int kHidden = 8;
constexpr int kVectorDim = 3;

const fla::Tokenizer& DemoTokenizer() {
  static const auto kTokenizer = fla::Tokenizer::Load(FLA_SOURCE_DIR "/demo/model");
  return *kTokenizer;
}

// The demonstration model's folder has no template; this one prints all that a message may have.
const fla::chat::ChatTemplates& DemoChat() {
  static const auto kChat = [] {
    const fla::fuzz::InputFolder folder;
    folder.Write("chat_template.jinja",
                 "{% for m in messages %}{{ m | tojson }}{{ m.content | trim }}{% endfor %}"
                 "{{ tools | tojson if tools }}{% if add_generation_prompt %}>{% endif %}");
    return fla::chat::ChatTemplates::Load(folder.path());
  }();
  return *kChat;
}

fla::ModelConfig Config() {
  fla::ModelConfig config;
  config.vocab_size = kVocab;
  config.hidden_size = kHidden;
  config.embed_dim = kVectorDim;
  config.eos_token_ids = {0};
  config.generation.top_p = 0.9f;
  return config;
}

void CheckRefusal(const absl::Status& status) {
  Require(status.code() == absl::StatusCode::kInvalidArgument, "a refusal's code");
  Require(status.message().find(": wanted ") != std::string_view::npos, "a refusal's text");
}

void CheckRequest(const fla::Request& request, const fla::Limits& limits) {
  const auto in_vocabulary = [](int token) { return token >= 0 && token < kVocab; };
  Require(!request.prompt.empty() &&
              request.prompt.size() <= static_cast<size_t>(limits.max_prompt_tokens),
          "the prompt's length");
  for (const int token : request.prompt) Require(in_vocabulary(token), "a token of the prompt");
  for (const int token : request.stop_tokens) Require(in_vocabulary(token), "a stop token");
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    Require(in_vocabulary(token) && std::fabs(bias) <= 100, "a bias");
  }
  Require(request.max_new_tokens >= 0 && request.max_new_tokens <= limits.max_new_tokens &&
              request.min_new_tokens >= 0 && request.min_new_tokens <= request.max_new_tokens,
          "the answer's length");
  Require(request.logprobs >= -1 && request.logprobs <= limits.max_logprobs, "logprobs");
  Require(std::abs(request.priority) <= limits.max_priority, "priority");
  const fla::SamplingOptions& sampling = request.sampling;
  Require(sampling.temperature >= 0 && std::isfinite(sampling.temperature), "temperature");
  Require(sampling.top_p > 0 && sampling.top_p <= 1 && sampling.min_p >= 0 && sampling.min_p <= 1 &&
              sampling.top_k >= 0 && sampling.repetition_penalty > 0 &&
              std::isfinite(sampling.repetition_penalty),
          "sampling");
}

// As the engine would, with tokens that depend on the seed, and the messages that come of it.
void RunToItsEnd(const fla::Request& request) {
  fla::Sequence sequence(request, DemoTokenizer(), {0}, fla::Clock::now());
  std::vector<int> fed;
  while (sequence.prompt_left() > 0) sequence.Feed(std::min(sequence.prompt_left(), 64), fed);
  Require(fed == request.prompt, "the prompt is not what is fed");
  sequence.FinishPrompt(fla::Clock::now());
  uint64_t random = request.sampling.seed;
  for (int i = 0; i < 64 && !sequence.finished(); ++i) {
    sequence.NextSample();
    random = random * 6364136223846793005u + 1442695040888963407u;
    fla::SampledToken token;
    token.token = static_cast<int>((random >> 33) % kVocab);
    sequence.Append(token, fla::Clock::now());
  }
  if (!sequence.finished()) {
    sequence.End(fla::FinishReason::kCancelled, absl::OkStatus(), fla::Clock::now());
  }
  const std::optional<fla::Event> event = sequence.TakeEvent();
  Require(event && event->finish && fla::IsValidUtf8(event->text), "the last event");
  fla::v1::GenerateResponse response;
  fla::AppendEvent(*event, DemoTokenizer(), *response.add_choices(),
                   *response.mutable_prompt_logprobs());
  std::string bytes;
  Require(response.SerializeToString(&bytes), "the answer cannot be sent");
}

void Generate(const std::string& bytes) {
  static const fla::ModelConfig kConfig = Config();
  static const fla::Limits kLimits;
  fla::v1::GenerateRequest message;
  if (!message.ParseFromString(bytes)) return;
  const auto choices =
      fla::Translate(message, {kConfig, DemoTokenizer(), kLimits, {}, 7, &DemoChat()});
  if (!choices.ok()) return CheckRefusal(choices.status());
  Require(!choices->empty() && choices->size() <= static_cast<size_t>(kLimits.max_n), "choices");
  for (const fla::Request& request : *choices) CheckRequest(request, kLimits);
  RunToItsEnd(choices->front());
}

// As the engine would, with hidden states that are their places, and the message that comes of it.
void EmbedToItsEnd(const fla::Request& request) {
  fla::Sequence sequence(request, DemoTokenizer(), {0}, fla::Clock::now());
  std::vector<int> fed;
  while (sequence.prompt_left() > 0) {
    const int tokens = std::min(sequence.prompt_left(), 64), rows = sequence.HiddenRows(tokens);
    Require(rows >= 0 && rows <= tokens, "more hidden states than tokens");
    sequence.Feed(tokens, fed);
    const std::vector<float> hidden(static_cast<size_t>(rows) * kHidden,
                                    static_cast<float>(sequence.position()));
    if (rows > 0) Require(sequence.AppendHidden(hidden, kHidden), "a finite hidden state");
  }
  sequence.FinishPrompt(fla::Clock::now());
  const std::optional<fla::Event> event = sequence.TakeEvent();
  Require(event && event->finish && event->finish->reason == fla::FinishReason::kEmbedded,
          "the end of an embedding");
  fla::v1::Embedding embedding;
  fla::FillEmbedding(*event, kHidden, embedding);
  const int steps = static_cast<int>(request.prompt.size());
  Require(embedding.tokens() == steps && embedding.vectors().columns() == kHidden &&
              embedding.vectors().rows() == (*request.pooling == fla::Pooling::kAll ? steps : 1) &&
              embedding.vectors().values().size() ==
                  sizeof(float) * kHidden * embedding.vectors().rows(),
          "an embedding's shape");
}

void Embed(const std::string& bytes) {
  static const fla::ModelConfig kConfig = Config();
  static const fla::Limits kLimits;
  fla::v1::EmbedRequest message;
  if (!message.ParseFromString(bytes)) return;
  const auto inputs = fla::Translate(message, {kConfig, DemoTokenizer(), kLimits, 7});
  if (!inputs.ok()) return CheckRefusal(inputs.status());
  Require(!inputs->empty() && inputs->size() <= static_cast<size_t>(kLimits.max_embed_inputs),
          "inputs");
  int64_t bytes_of_answer = 0;
  for (const fla::Request& request : *inputs) {
    CheckRequest(request, kLimits);
    Require(request.pooling && request.max_new_tokens == 0, "an input that generates");
    Require(request.vectors.empty() || request.vectors.size() == request.prompt.size() * kVectorDim,
            "as many vectors as steps");
    for (const float value : request.vectors) Require(std::isfinite(value), "a vector");
    const size_t vectors = *request.pooling == fla::Pooling::kAll ? request.prompt.size() : 1;
    bytes_of_answer += static_cast<int64_t>(vectors * kHidden * sizeof(float));
  }
  Require(bytes_of_answer <= kLimits.max_embed_bytes, "the answer's length");
  EmbedToItsEnd(inputs->front());
}

void Tokenize(const std::string& bytes) {
  fla::v1::TokenizeRequest message;
  if (!message.ParseFromString(bytes)) return;
  const auto ids = fla::EncodeText("text", message.text(), DemoTokenizer());
  if (!ids.ok()) return CheckRefusal(ids.status());
  for (const int id : *ids) DemoTokenizer().TokenBytes(id);
}

void Detokenize(const std::string& bytes) {
  fla::v1::DetokenizeRequest message;
  if (!message.ParseFromString(bytes)) return;
  const absl::Status status = fla::CheckTokenIds("ids", message.ids().data(), message.ids_size(),
                                                 DemoTokenizer().vocab_size());
  if (!status.ok()) return CheckRefusal(status);
  const std::string text = DemoTokenizer().Decode({message.ids().begin(), message.ids().end()},
                                                  message.skip_special_tokens());
  Require(fla::IsValidUtf8(text), "text that is no UTF-8");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes(fla::fuzz::BytesOf(data + 1, size - 1));
  switch (data[0] % 4) {
    case 0:
      Generate(bytes);
      break;
    case 1:
      Tokenize(bytes);
      break;
    case 2:
      Detokenize(bytes);
      break;
    case 3:
      Embed(bytes);
      break;
  }
  return 0;
}
