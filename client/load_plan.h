// What a load test sends and when. Drawn from a seed alone, so that two runs with the same options
// send the same requests.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fla::client {

// Random bits whose sequence is the same on every platform (splitmix64), unlike the distributions
// of <random>.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Bits();
  double Uniform();                            // in [0, 1)
  int64_t Integer(int64_t low, int64_t high);  // in [low, high]
  double Exponential();                        // of mean 1
  double Normal();                             // of mean 0 and deviation 1

 private:
  uint64_t state_;
};

// A number of tokens: always the same, uniform between two, or log-normal (as lengths in real
// traffic are) with a largest value.
struct LengthDistribution {
  enum class Kind { kFixed, kUniform, kLogNormal };
  Kind kind = Kind::kFixed;
  int low = 1;         // kFixed: the value; kUniform: the least
  int high = 1;        // kUniform, kLogNormal: the most
  double median = 1;   // kLogNormal
  double sigma = 0.0;  // kLogNormal: deviation of the natural logarithm

  int Draw(Random& random) const;  // >= 1
};

// "128", "16-512", "lognormal:MEDIAN:SIGMA:MOST". Throws std::invalid_argument.
LengthDistribution ParseLength(const std::string& text);

struct PlanOptions {
  uint64_t seed = 1;
  // Requests a second, arriving whether or not the ones before are done (open loop); none: when
  // they come is not the plan's business (closed loop).
  std::optional<double> rate;
  bool poisson = true;  // arrivals at random moments of that rate; else evenly spaced
  LengthDistribution prompt_tokens = {.low = 128};
  LengthDistribution output_tokens = {.low = 128};
  double cancel_fraction = 0;  // of the requests, that the client cancels after a random token
  // Prompts are random tokens of [0, vocab_size) without those.
  int vocab_size = 1;
  std::vector<int> excluded_tokens;
};

struct PlannedRequest {
  int64_t index = 0;
  double start_seconds = 0;  // open loop: since the beginning of the run
  std::vector<int> prompt;
  int output_tokens = 0;
  uint64_t sampling_seed = 0;
  std::optional<int> cancel_after;  // tokens
};

// Thread safety: none; the owner locks.
class LoadPlan {
 public:
  // Throws std::invalid_argument if no token is left for prompts.
  explicit LoadPlan(const PlanOptions& options);
  // The next request; they start in this order.
  PlannedRequest Next();

 private:
  const PlanOptions options_;
  std::vector<int> alphabet_;  // the tokens of prompts
  Random arrivals_;
  int64_t next_index_ = 0;
  double next_start_ = 0;
};

}  // namespace fla::client
