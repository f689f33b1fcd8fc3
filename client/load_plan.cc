#include "client/load_plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string_view>

namespace fla::client {
namespace {

constexpr int kMostTokens = 1 << 24;

// Nothing but a number, whole.
template <typename T>
std::optional<T> NumberOf(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

bool IsLength(const std::optional<int>& tokens) {
  return tokens && *tokens >= 1 && *tokens <= kMostTokens;
}

// A seed for one purpose, unrelated to those of its neighbours.
uint64_t SeedOf(uint64_t seed, uint64_t purpose) {
  return Random(seed ^ Random(purpose).Bits()).Bits();
}

}  // namespace

uint64_t Random::Bits() {
  uint64_t bits = state_ += 0x9e3779b97f4a7c15u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

double Random::Uniform() { return static_cast<double>(Bits() >> 11) * 0x1.0p-53; }

int64_t Random::Integer(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(Uniform() * static_cast<double>(high - low + 1));
}

double Random::Exponential() { return -std::log1p(-Uniform()); }

double Random::Normal() {  // Box and Muller
  const double radius = std::sqrt(2 * Exponential());
  return radius * std::cos(2 * std::numbers::pi * Uniform());
}

int LengthDistribution::Draw(Random& random) const {
  switch (kind) {
    case Kind::kFixed:
      return low;
    case Kind::kUniform:
      return static_cast<int>(random.Integer(low, high));
    case Kind::kLogNormal:
      break;
  }
  const double length = median * std::exp(sigma * random.Normal());
  return static_cast<int>(std::clamp(std::round(length), 1.0, static_cast<double>(high)));
}

LengthDistribution ParseLength(const std::string& text) {
  using Kind = LengthDistribution::Kind;
  const std::vector<std::string_view> parts = Split(text, ':');
  if (parts.size() == 4 && parts[0] == "lognormal") {
    const auto median = NumberOf<double>(parts[1]), sigma = NumberOf<double>(parts[2]);
    const auto most = NumberOf<int>(parts[3]);
    if (median && *median >= 1 && *median <= kMostTokens && sigma && *sigma >= 0 && *sigma <= 10 &&
        IsLength(most)) {
      return {.kind = Kind::kLogNormal, .high = *most, .median = *median, .sigma = *sigma};
    }
  }
  const std::vector<std::string_view> ends = Split(text, '-');
  const auto low = NumberOf<int>(ends.front()), high = NumberOf<int>(ends.back());
  if (ends.size() <= 2 && IsLength(low) && IsLength(high) && *low <= *high) {
    return {.kind = ends.size() == 1 ? Kind::kFixed : Kind::kUniform, .low = *low, .high = *high};
  }
  throw std::invalid_argument(
      "wanted a number of tokens as \"128\", \"16-512\" or \"lognormal:MEDIAN:SIGMA:MOST\", got "
      "\"" +
      text + "\"");
}

LoadPlan::LoadPlan(const PlanOptions& options)
    : options_(options), arrivals_(SeedOf(options.seed, 0)) {
  for (int token = 0; token < options_.vocab_size; ++token) {
    const auto& excluded = options_.excluded_tokens;
    if (std::find(excluded.begin(), excluded.end(), token) == excluded.end()) {
      alphabet_.push_back(token);
    }
  }
  if (alphabet_.empty()) throw std::invalid_argument("no token is left to make prompts of");
}

PlannedRequest LoadPlan::Next() {
  PlannedRequest request;
  request.index = next_index_++;
  // A request depends on the seed and its index, not on how arrivals were drawn.
  Random random(SeedOf(options_.seed, static_cast<uint64_t>(request.index) + 1));
  request.prompt.resize(options_.prompt_tokens.Draw(random));
  request.output_tokens = options_.output_tokens.Draw(random);
  request.sampling_seed = random.Bits();
  if (random.Uniform() < options_.cancel_fraction) {
    request.cancel_after = static_cast<int>(random.Integer(0, request.output_tokens - 1));
  }
  const auto last = static_cast<int64_t>(alphabet_.size()) - 1;
  for (int& token : request.prompt) token = alphabet_[random.Integer(0, last)];
  if (options_.rate) {
    request.start_seconds = next_start_;
    next_start_ += (options_.poisson ? arrivals_.Exponential() : 1.0) / *options_.rate;
  }
  return request;
}

}  // namespace fla::client
