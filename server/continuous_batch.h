// The sequences that hold slots, and the steps that move them on together.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "model/model.h"
#include "model/sampler.h"
#include "model/state_pool.h"
#include "model/tokenizer.h"
#include "server/model_metrics.h"
#include "server/request_queue.h"
#include "server/scheduler.h"
#include "server/sequence.h"

namespace fla {

// True once the client has given up; its slot or its place in the queue is to be freed.
bool IsCancelled(const Request& request);
bool IsExpired(const Request& request, Clock::time_point now);

// Sequences join (Admit) and leave (finish, DropEnded, EndAll) between steps. What happened to them
// is told by Deliver.
//
// Thread safety: one thread at a time, that which owns the model's stream; slots_used() from any.
class ContinuousBatch {
 public:
  // The arguments must outlive this object. Allocates the states of `slots` sequences.
  ContinuousBatch(Model& model, const Tokenizer& tokenizer, int slots, int max_batch_tokens,
                  ModelMetrics& metrics);

  bool empty() const { return running_.empty(); }
  bool full() const { return running_.size() == static_cast<size_t>(pool_.total()); }
  int slots_used() const { return pool_.used(); }

  // Gives a request a slot. Not to be called when full. Throws DeviceError; the request has been
  // taken then too.
  void Admit(QueuedRequest request);

  // Finishes those that are cancelled or past their deadline.
  void DropEnded(Clock::time_point now);

  // Runs one batch through the model and appends what came out. Throws DeviceError.
  void RunStep();

  // Finishes all with a status that is not OK.
  void EndAll(const absl::Status& status);

  // Sends the events since the last call to the requests' sinks; returns how many of them were
  // finishes. A slot is free, and the metrics say so, before its finish is sent.
  int Deliver();

 private:
  struct Running {
    std::unique_ptr<Sequence> sequence;
    uint64_t arrival = 0;
    int slot = -1;  // -1: none yet
    int64_t last_turn = 0;
  };

  // One batch on its way through the model. RunStep is Compose, Launch, Collect.
  struct Step {
    Batch batch;
    // Of each row of logits: whose it is, and whether it scores the prompt or picks a token.
    struct Row {
      Sequence* sequence;
      bool scores_prompt;
    };
    std::vector<Row> rows;
    std::vector<SampleRequest> samples;
    std::vector<Sequence*> prompts_done;  // whose last prompt piece is in the batch
  };
  Step Compose();
  void AddPiece(Running& running, int tokens, Step& step);
  void Launch(const Step& step);
  void Collect(const Step& step);
  // False if no token can be taken from a row, because its sequence ended in this step.
  bool Usable(Sequence& sequence, const SampledToken& sampled, Clock::time_point now);
  void UpdateGauges();

  Model& model_;
  const Tokenizer& tokenizer_;
  ModelMetrics& metrics_;
  const BatchLimits limits_;
  StatePool pool_;
  Sampler sampler_;
  GaugePart running_gauge_;
  GaugePart slots_used_gauge_;
  GaugePart slots_total_gauge_;
  GaugePart weights_gauge_;
  GaugePart states_gauge_;
  GaugePart workspace_gauge_;
  std::vector<Running> running_;
  int64_t turns_ = 0;  // pieces of batches so far
};

}  // namespace fla
