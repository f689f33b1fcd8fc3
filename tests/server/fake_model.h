// A Model that tests of the engine put in the place of the real one when they are linked. Its next
// token is a function of all tokens before it, so that a token that is lost, doubled or put into
// the wrong slot changes everything after it; it also checks the batches that it gets, and can be
// told to be slow or to break.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"

namespace fla::testing {

inline constexpr int kFakeVocab = 256;
inline constexpr int kFakeEos = 2;
inline constexpr int kFakeHidden = 8;

// Thread safety: the fields may be set while an engine runs.
struct FakeModelOptions {
  int max_batch_tokens = 64;   // a larger batch is an error
  int max_logits_rows = 1024;  // likewise
  std::atomic<int> step_milliseconds = 0;
  std::atomic<int> fail_at_step = -1;      // the step, counted from 0, that throws a DeviceError
  std::atomic<bool> far_from_end = false;  // what ForwardResult::nears_end denies
  // The logits that follow this token, and the hidden state at it, are NaN.
  std::atomic<int> poisoned_token = -1;
  std::atomic<int> steps = 0;  // counts
};

// `options` must outlive the model.
std::unique_ptr<Model> MakeFakeModel(FakeModelOptions& options);

// The token with the largest logit after `tokens`; a printable character, never kFakeEos.
int FakeNextToken(std::span<const int> tokens);

// The logit of `token` after `tokens`.
float FakeLogit(std::span<const int> tokens, int token);

// The final hidden state at the last of `tokens`: kFakeHidden values in [-1, 1].
std::vector<float> FakeHidden(std::span<const int> tokens);

}  // namespace fla::testing
