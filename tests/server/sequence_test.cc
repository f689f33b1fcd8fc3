#include "server/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/testing/byte_tokenizer.h"

namespace fla {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

constexpr int kEos = 2;
constexpr float kForbidden = -INFINITY;

// Tokens are bytes here, so texts stand for tokens.
std::vector<int> TokensOf(const std::string& text) {
  std::vector<int> tokens;
  for (unsigned char byte : text) tokens.push_back(byte);
  return tokens;
}

const Tokenizer& ByteTokenizer() {
  static const std::shared_ptr<const Tokenizer> tokenizer = testing::MakeByteTokenizer();
  return *tokenizer;
}

Request MakeRequest(const std::string& prompt, int max_new_tokens) {
  Request request;
  request.choice = 3;
  request.prompt = TokensOf(prompt);
  request.max_new_tokens = max_new_tokens;
  request.received = Clock::now();
  return request;
}

// A sequence whose prompt is in.
std::unique_ptr<Sequence> Started(Request request) {
  const int size = static_cast<int>(request.prompt.size());
  auto sequence = std::make_unique<Sequence>(std::move(request), ByteTokenizer(),
                                             std::vector<int>{kEos}, Clock::now());
  std::vector<int> fed;
  sequence->Feed(size, fed);
  sequence->FinishPrompt(Clock::now());
  return sequence;
}

struct Output {
  std::string text;
  std::vector<int> tokens;
  std::vector<std::string> pieces;  // the text of each token's event
  std::optional<Finish> finish;
};

// Appends the bytes of `generated` until the sequence has finished.
Output Generate(Sequence& sequence, const std::string& generated) {
  Output output;
  for (int token : TokensOf(generated)) {
    if (sequence.finished()) break;
    SampledToken sampled;
    sampled.token = token;
    sequence.Append(sampled, Clock::now());
    std::optional<Event> event = sequence.TakeEvent();
    EXPECT_TRUE(event.has_value());
    EXPECT_FALSE(sequence.TakeEvent().has_value());
    EXPECT_EQ(event->choice, 3);
    EXPECT_TRUE(IsValidUtf8(event->text));
    output.text += event->text;
    output.pieces.push_back(event->text);
    output.tokens.insert(output.tokens.end(), event->tokens.begin(), event->tokens.end());
    output.finish = event->finish;
    EXPECT_EQ(event->finish.has_value(), sequence.finished());
  }
  return output;
}

std::map<int, float> BiasesOf(const SampleRequest& sample) {
  std::map<int, float> biases;
  for (const LogitBias& bias : sample.biases) {
    EXPECT_TRUE(biases.emplace(bias.token, bias.bias).second) << "twice: " << bias.token;
  }
  return biases;
}

TEST(SequenceTest, FeedsThePromptInPiecesAndThenEachToken) {
  Sequence sequence(MakeRequest("abcde", 5), ByteTokenizer(), {kEos}, Clock::now());
  std::vector<int> fed;
  EXPECT_EQ(sequence.prompt_left(), 5);
  sequence.Feed(3, fed);
  EXPECT_EQ(sequence.prompt_left(), 2);
  EXPECT_EQ(sequence.position(), 3);
  sequence.Feed(2, fed);
  EXPECT_EQ(sequence.prompt_left(), 0);
  sequence.FinishPrompt(Clock::now());
  EXPECT_EQ(sequence.NextSample().row.position, 5);
  Generate(sequence, "x");
  sequence.Feed(1, fed);
  EXPECT_EQ(sequence.position(), 6);
  EXPECT_EQ(sequence.NextSample().row.position, 6);
  EXPECT_EQ(fed, TokensOf("abcdex"));
}

TEST(SequenceTest, EndsAtMaxNewTokens) {
  const auto sequence = Started(MakeRequest("p", 4));
  const Output output = Generate(*sequence, "abcdef");
  EXPECT_EQ(output.text, "abcd");
  EXPECT_EQ(output.tokens, TokensOf("abcd"));
  ASSERT_TRUE(output.finish.has_value());
  EXPECT_EQ(output.finish->reason, FinishReason::kLength);
  EXPECT_TRUE(output.finish->status.ok());
  EXPECT_EQ(output.finish->prompt_tokens, 1);
  EXPECT_EQ(output.finish->completion_tokens, 4);
  EXPECT_EQ(output.finish->stop_token, -1);
  EXPECT_LE(output.finish->times.received, output.finish->times.admitted);
  EXPECT_LE(output.finish->times.admitted, output.finish->times.first_token);
  EXPECT_LE(output.finish->times.first_token, output.finish->times.last_token);
  EXPECT_EQ(output.finish->times.last_token, output.finish->times.finished);
}

TEST(SequenceTest, EndOfTextIsAStopWithoutAName) {
  const auto sequence = Started(MakeRequest("p", 10));
  const Output output = Generate(*sequence, "ab\x02");
  EXPECT_EQ(output.text, "ab");
  EXPECT_THAT(output.tokens, ElementsAre('a', 'b', kEos));
  EXPECT_EQ(output.finish->reason, FinishReason::kStop);
  EXPECT_EQ(output.finish->stop_token, -1);
  EXPECT_EQ(output.finish->stop_string, "");
  EXPECT_EQ(output.finish->completion_tokens, 3);
}

TEST(SequenceTest, EndOfTextAtTheLengthLimitIsAStop) {
  const auto sequence = Started(MakeRequest("p", 2));
  EXPECT_EQ(Generate(*sequence, "a\x02").finish->reason, FinishReason::kStop);
}

TEST(SequenceTest, IgnoresEndOfTextIfAsked) {
  Request request = MakeRequest("p", 3);
  request.ignore_eos = true;
  const Output output = Generate(*Started(request), "a\x02z");
  EXPECT_EQ(output.text, "a\x02z");
  EXPECT_EQ(output.finish->reason, FinishReason::kLength);
}

TEST(SequenceTest, AStopTokenEndsIsNamedAndIsNoText) {
  Request request = MakeRequest("p", 10);
  request.stop_tokens = {'!', '?'};
  const Output output = Generate(*Started(request), "hey?");
  EXPECT_EQ(output.text, "hey");
  EXPECT_EQ(output.tokens, TokensOf("hey?"));
  EXPECT_EQ(output.finish->reason, FinishReason::kStop);
  EXPECT_EQ(output.finish->stop_token, '?');
}

TEST(SequenceTest, AStopTokenThatIsEndOfTextStopsEvenIfThatIsIgnored) {
  Request request = MakeRequest("p", 10);
  request.stop_tokens = {kEos};
  request.ignore_eos = true;
  EXPECT_EQ(Generate(*Started(request), "a\x02").finish->stop_token, kEos);
}

TEST(SequenceTest, AStopStringAcrossTokensIsCutOut) {
  Request request = MakeRequest("p", 20);
  request.stop_strings = {"\nUser:"};
  const Output output = Generate(*Started(request), "Hi\nUs!\nUser: x");
  EXPECT_EQ(output.text, "Hi\nUs!");
  EXPECT_THAT(output.pieces, ElementsAre("H", "i", "", "", "", "\nUs!", "", "", "", "", "", ""));
  EXPECT_EQ(output.finish->reason, FinishReason::kStop);
  EXPECT_EQ(output.finish->stop_string, "\nUser:");
  EXPECT_EQ(output.finish->completion_tokens, 12);
}

TEST(SequenceTest, AStopStringStaysIfAsked) {
  Request request = MakeRequest("p", 20);
  request.stop_strings = {"END"};
  request.include_stop_strings = true;
  EXPECT_EQ(Generate(*Started(request), "abENDc").text, "abEND");
}

TEST(SequenceTest, HeldBackTextComesWithTheFinish) {
  Request request = MakeRequest("p", 4);
  request.stop_strings = {"END"};
  const Output output = Generate(*Started(request), "abEN");
  EXPECT_THAT(output.pieces, ElementsAre("a", "b", "", "EN"));
  EXPECT_EQ(output.finish->reason, FinishReason::kLength);
}

TEST(SequenceTest, AStopStringOfTheLastTokenWinsOverLength) {
  Request request = MakeRequest("p", 3);
  request.stop_strings = {"bc"};
  const Output output = Generate(*Started(request), "abc");
  EXPECT_EQ(output.text, "a");
  EXPECT_EQ(output.finish->reason, FinishReason::kStop);
}

TEST(SequenceTest, CharactersComeWhole) {
  const auto sequence = Started(MakeRequest("p", 9));
  const Output output = Generate(*sequence, "a\xc3\xa9\xf0\x9f\x98\x80 \xe2");
  EXPECT_THAT(output.pieces, ElementsAre("a", "", "\xc3\xa9", "", "", "", "\xf0\x9f\x98\x80", " ",
                                         "\xef\xbf\xbd"));
}

TEST(SequenceTest, StopStringsOfManyBytesAreFoundInTheText) {
  Request request = MakeRequest("p", 20);
  request.stop_strings = {"\xc3\xa9\xc3\xa9"};
  const Output output = Generate(*Started(request), "x\xc3\xa9y\xc3\xa9\xc3\xa9");
  EXPECT_EQ(output.text, "x\xc3\xa9y");
  EXPECT_EQ(output.finish->stop_string, "\xc3\xa9\xc3\xa9");
}

TEST(SequenceTest, UntilMinNewTokensNothingStops) {
  Request request = MakeRequest("p", 20);
  request.min_new_tokens = 3;
  request.stop_strings = {"aa"};
  request.stop_tokens = {'!', kEos};
  request.sampling.logit_bias = {{'!', 5.0f}, {'x', 1.0f}};
  const auto sequence = Started(request);
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(
        BiasesOf(sequence->NextSample()),
        UnorderedElementsAre(Pair(kEos, kForbidden), Pair('!', kForbidden), Pair('x', 1.0f)));
    const Output output = Generate(*sequence, i < 2 ? "a" : "b");
    EXPECT_FALSE(output.finish.has_value());
  }
  EXPECT_THAT(BiasesOf(sequence->NextSample()),
              UnorderedElementsAre(Pair('!', 5.0f), Pair('x', 1.0f)));
  const Output output = Generate(*sequence, "caa");
  EXPECT_EQ(output.finish->stop_string, "aa");
  EXPECT_EQ(output.finish->completion_tokens, 6);
}

TEST(SequenceTest, IgnoredEndOfTextIsNotForbidden) {
  Request request = MakeRequest("p", 20);
  request.min_new_tokens = 3;
  request.ignore_eos = true;
  EXPECT_THAT(BiasesOf(Started(request)->NextSample()), IsEmpty());
}

TEST(SequenceTest, SamplingOptionsReachTheRow) {
  Request request = MakeRequest("p", 20);
  request.logprobs = 4;
  request.sampling = {.temperature = 0.7f,
                      .top_k = 11,
                      .top_p = 0.8f,
                      .min_p = 0.1f,
                      .repetition_penalty = 1.2f,
                      .presence_penalty = 0.3f,
                      .frequency_penalty = 0.4f,
                      .seed = 99};
  const SamplingRow row = Started(request)->NextSample().row;
  EXPECT_EQ(row.temperature, 0.7f);
  EXPECT_EQ(row.top_k, 11);
  EXPECT_EQ(row.top_p, 0.8f);
  EXPECT_EQ(row.min_p, 0.1f);
  EXPECT_EQ(row.repetition_penalty, 1.2f);
  EXPECT_EQ(row.presence_penalty, 0.3f);
  EXPECT_EQ(row.frequency_penalty, 0.4f);
  EXPECT_EQ(row.seed, 99u);
  EXPECT_EQ(row.num_top_logprobs, 4);
  EXPECT_EQ(row.forced_token, -1);
}

TEST(SequenceTest, CountsWhatPenaltiesNeed) {
  Request request = MakeRequest("aab", 20);
  EXPECT_TRUE(Started(request)->NextSample().counts.empty());

  request.sampling.frequency_penalty = 0.5f;  // of the output alone
  const auto frequency = Started(request);
  Generate(*frequency, "aac");
  std::map<int, std::pair<int, int>> counts;
  for (const TokenCount& count : frequency->NextSample().counts) {
    counts[count.token] = {count.prompt_count, count.output_count};
  }
  EXPECT_THAT(counts, UnorderedElementsAre(Pair('a', Pair(0, 2)), Pair('c', Pair(0, 1))));

  request.sampling.repetition_penalty = 1.5f;
  const auto repetition = Started(request);
  Generate(*repetition, "ac");
  counts.clear();
  for (const TokenCount& count : repetition->NextSample().counts) {
    counts[count.token] = {count.prompt_count, count.output_count};
  }
  EXPECT_THAT(counts, UnorderedElementsAre(Pair('a', Pair(2, 1)), Pair('b', Pair(1, 0)),
                                           Pair('c', Pair(0, 1))));
}

TEST(SequenceTest, LogprobsComeWithTheirTokens) {
  Request request = MakeRequest("p", 2);
  request.logprobs = 2;
  const auto sequence = Started(request);
  sequence->Append({.token = 'a', .logprob = -0.5f, .top = {{'a', -0.5f}, {'b', -1.5f}}},
                   Clock::now());
  const Event event = *sequence->TakeEvent();
  ASSERT_EQ(event.logprobs.size(), 1u);
  EXPECT_EQ(event.logprobs[0].chosen.token, 'a');
  EXPECT_EQ(event.logprobs[0].chosen.logprob, -0.5f);
  ASSERT_EQ(event.logprobs[0].top.size(), 2u);
  EXPECT_EQ(event.logprobs[0].top[1].token, 'b');
}

TEST(SequenceTest, ScoresAPromptAndGeneratesNothing) {
  Request request = MakeRequest("abc", 0);
  request.prompt_logprobs = 1;
  Sequence sequence(request, ByteTokenizer(), {kEos}, Clock::now());
  EXPECT_EQ(sequence.ScoreSample(0).row.forced_token, 'b');
  EXPECT_EQ(sequence.ScoreSample(1).row.forced_token, 'c');
  EXPECT_EQ(sequence.ScoreSample(1).row.num_top_logprobs, 1);
  std::vector<int> fed;
  sequence.Feed(2, fed);
  sequence.AppendPromptLogprob({.token = 'b', .logprob = -1.0f, .top = {{'x', -0.25f}}});
  EXPECT_FALSE(sequence.TakeEvent().has_value());
  sequence.Feed(1, fed);
  sequence.AppendPromptLogprob({.token = 'c', .logprob = -2.0f, .top = {{'y', -0.5f}}});
  sequence.FinishPrompt(Clock::now());
  ASSERT_TRUE(sequence.finished());
  const Event event = *sequence.TakeEvent();
  ASSERT_EQ(event.prompt_logprobs.size(), 2u);
  EXPECT_EQ(event.prompt_logprobs[0].chosen.token, 'b');
  EXPECT_EQ(event.prompt_logprobs[1].chosen.logprob, -2.0f);
  EXPECT_EQ(event.prompt_logprobs[1].top[0].token, 'y');
  EXPECT_THAT(event.tokens, IsEmpty());
  EXPECT_EQ(event.finish->reason, FinishReason::kLength);
  EXPECT_EQ(event.finish->completion_tokens, 0);
  EXPECT_EQ(event.finish->times.first_token, Clock::time_point());
}

TEST(SequenceTest, PromptLogprobsComeWithTheFirstTokenAndOnce) {
  Request request = MakeRequest("ab", 2);
  request.prompt_logprobs = 0;
  Sequence sequence(request, ByteTokenizer(), {kEos}, Clock::now());
  std::vector<int> fed;
  sequence.Feed(2, fed);
  sequence.AppendPromptLogprob({.token = 'b', .logprob = -1.0f});
  sequence.FinishPrompt(Clock::now());
  sequence.Append({.token = 'x'}, Clock::now());
  EXPECT_EQ(sequence.TakeEvent()->prompt_logprobs.size(), 1u);
  sequence.Append({.token = 'y'}, Clock::now());
  EXPECT_THAT(sequence.TakeEvent()->prompt_logprobs, IsEmpty());
}

TEST(SequenceTest, AnEndFromOutsideLetsHeldTextGo) {
  Request request = MakeRequest("p", 20);
  request.stop_strings = {"END"};
  const auto sequence = Started(request);
  Generate(*sequence, "abEN");
  sequence->End(FinishReason::kCancelled, absl::OkStatus(), Clock::now());
  const Event event = *sequence->TakeEvent();
  EXPECT_EQ(event.text, "EN");
  EXPECT_EQ(event.finish->reason, FinishReason::kCancelled);
  EXPECT_EQ(event.finish->completion_tokens, 4);
}

TEST(SequenceTest, ATokenBeyondTheTokenizersVocabularyHasNoText) {
  const auto sequence = Started(MakeRequest("p", 2));
  SampledToken padded;
  padded.token = ByteTokenizer().vocab_size() + 5;
  sequence->Append(padded, Clock::now());
  const Event event = *sequence->TakeEvent();
  EXPECT_EQ(event.text, "");
  EXPECT_THAT(event.tokens, ElementsAre(padded.token));
}

TEST(EosTokensTest, AreThoseOfTheConfigAndTheTokenizer) {
  const testing::TemporaryFolder folder;
  folder.Write("tokenizer.json", testing::ByteTokenizerJson());
  ModelConfig config;
  config.vocab_size = 256;
  config.eos_token_ids = {2};
  EXPECT_EQ(EosTokens(config, *Tokenizer::Load(folder.path())), std::vector<int>({2}));
  folder.Write("tokenizer_config.json", R"({"eos_token": "A"})");
  const auto tokenizer = Tokenizer::Load(folder.path());
  EXPECT_EQ(EosTokens(config, *tokenizer), std::vector<int>({2, 'A'}));
  config.eos_token_ids = {'A', 3};
  EXPECT_EQ(EosTokens(config, *tokenizer), std::vector<int>({'A', 3}));
  config.vocab_size = 'A';  // a tokenizer may know more tokens than the model has rows for
  config.eos_token_ids = {3};
  EXPECT_EQ(EosTokens(config, *tokenizer), std::vector<int>({3}));
}

}  // namespace
}  // namespace fla
