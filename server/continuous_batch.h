// The sequences that hold slots, and the steps that move them on together.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "model/hidden_copies.h"
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
// On a GPU a step is launched before the tokens of the step before it have reached the host: they
// stay on the device as its input, and what the host does with them happens under the next step. A
// sequence that such a token ends has one row computed in vain. Sequences with penalties need the
// token on the host first, and steps with one of them wait for it.
//
// Thread safety: one thread at a time, that which owns the model's stream; slots_used() from any.
class ContinuousBatch {
 public:
  struct Options {
    int slots = 64;
    int max_batch_tokens = 512;
    int max_prefill_tokens = 0;  // of a batch in which nothing decodes, where that is more
    StateFormat states;
    bool launch_ahead = false;  // the device runs behind the host
  };
  // The arguments must outlive this object. Allocates the states and prepares the model.
  ContinuousBatch(Model& model, const Tokenizer& tokenizer, const Options& options,
                  ModelMetrics& metrics);

  // Nothing to do: no sequence, and no step on its way.
  bool empty() const { return running_.empty() && !in_flight_.has_value(); }
  bool full() const { return running_.size() == static_cast<size_t>(pool_.total()); }
  int slots_used() const { return pool_.used(); }

  // Gives a request a slot. Not to be called when full. Throws DeviceError; the request has been
  // taken then too.
  void Admit(QueuedRequest request);

  // Finishes those that are cancelled or past their deadline.
  void DropEnded(Clock::time_point now);

  // Whether RunStep would launch a batch. If not, it waits for the one that is on its way, and so
  // would what comes meanwhile.
  bool CanLaunch() const;
  // Whether the next batch should be launched now rather than wait for more requests: the step on
  // its way, if any, nears its end, or is one that sequences wait for to go on.
  bool StepNearsEnd() const;
  // Whether the step on its way, if any, has come to its end.
  bool StepIsDone() const;

  // Launches one batch, if any sequence is to go on, and appends what came out: of it, or,
  // launching ahead, of the batch before. Throws DeviceError.
  void RunStep();

  // Finishes all with a status that is not OK.
  void EndAll(const absl::Status& status);

  // Sends the events since the last call to the requests' sinks; returns how many of them were
  // finishes. A slot is free, and the metrics say so, before its finish is sent.
  int Deliver();

 private:
  struct Running {
    std::shared_ptr<Sequence> sequence;  // shared with the step on its way
    uint64_t arrival = 0;
    int slot = -1;  // -1: none yet
    int64_t last_turn = 0;
  };

  // One batch on its way through the model. RunStep is Compose, Launch, Collect.
  struct Step {
    Batch batch;
    // Of each row of logits: whose it is, and whether it scores the prompt or picks a token.
    struct Row {
      std::shared_ptr<Sequence> sequence;
      bool scores_prompt;
    };
    std::vector<Row> rows;
    std::vector<SampleRequest> samples;
    // Whose the wanted hidden states are, and how many, in their order.
    struct HiddenPiece {
      std::shared_ptr<Sequence> sequence;
      int rows;
    };
    std::vector<HiddenPiece> hidden;
    std::vector<std::shared_ptr<Sequence>> prompts_done;  // whose last prompt piece is in the batch
    Clock::time_point composed;
    bool follows;  // another step: there has been work all the time since that one
    std::function<bool()> nears_end;  // ForwardResult's
  };
  // Whether the next step needs tokens on the host that the step on its way will bring.
  bool MustCollectFirst() const;
  Step Compose();
  void AddPiece(Running& running, int tokens, Step& step);
  void Launch(Step& step);
  void Collect(const Step& step);
  // The device's time between the step and the one before it.
  void ObserveGap(const Step& step);
  void CollectHidden(const Step& step, Clock::time_point now);
  // False if no token can be taken from a row, because its sequence ended in this step.
  bool Usable(Sequence& sequence, const SampledToken& sampled, Clock::time_point now);
  void EndNonfinite(Sequence& sequence, const char* what, Clock::time_point now);
  void UpdateGauges();

  Model& model_;
  const Tokenizer& tokenizer_;
  const std::vector<int> eos_tokens_;
  ModelMetrics& metrics_;
  const BatchLimits limits_;
  StatePool pool_;
  Sampler sampler_;
  HiddenCopies hidden_copies_;
  const bool launch_ahead_;
  std::vector<Fence> passed_;            // of the last steps, in turn, those that sample nothing
  size_t launched_ = 0, collected_ = 0;  // steps
  std::optional<Step> in_flight_;        // launched, not collected
  bool idle_ = true;                     // nothing to do, or no step yet
  DeviceTime last_end_ = 0;              // of the step collected last; 0: it sampled nothing
  GaugePart running_gauge_;
  GaugePart slots_used_gauge_;
  GaugePart slots_total_gauge_;
  GaugePart weights_gauge_;
  GaugePart states_gauge_;
  GaugePart workspace_gauge_;
  std::vector<Running> running_;  // by slot: a step's rows go through the states in their order
  int64_t turns_ = 0;             // pieces of batches so far
};

}  // namespace fla
