// Which tokens of which sequences go into the next step: a pure function of plain values.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fla {

// What the scheduler sees of a sequence that holds a slot.
struct RunningSequence {
  int64_t due = 0;         // lower first; see Request::due
  uint64_t arrival = 0;    // lower first among equals; unique
  int position = 0;        // tokens that the model has seen of it
  int prompt_left = 0;     // prompt tokens that the model has not seen; 0: it decodes
  bool scored = false;     // the logits of every prompt position are wanted
  int64_t last_turn = -1;  // of its last piece, counted over the pieces of all batches in order
};

struct BatchLimits {
  int max_tokens = 512;        // of a batch, >= 2
  int max_prefill_tokens = 0;  // of one in which nothing decodes, where that is more
  int max_scored_rows = 512;   // tokens of scored prompts in a batch, >= 1
  // A piece that does not end its prompt ends at a multiple of this position where it can, so that
  // the chunks of chunked prefill are the same in whatever company a prompt runs.
  int alignment = 64;
};

struct BatchPlan {
  struct Piece {
    int sequence;  // index into the scheduler's input
    int tokens;    // >= 1; 1 for one that decodes
  };
  std::vector<Piece> pieces;  // those that decode first, then pieces of prompts
  int num_decode = 0;
};

// Composes a batch of at most max_tokens tokens, or of prompts alone of max_prefill_tokens: large
// batches suit the device, and nobody waits for the next token of a text.
// - Every decoding sequence gets its token. If there are too many, those that waited longest go
//   first, and an eighth of the batch is kept for prompts, so that neither starves the other.
// - Of the rest, at least half goes to the prompt that is due first, so that every prompt comes to
//   its end, and then to the shortest first, so that a short prompt does not wait for long ones.
// - If any prompt waits, at least one prompt token is in the batch.
BatchPlan ComposeBatch(std::span<const RunningSequence> running, const BatchLimits& limits);

}  // namespace fla
