#include "server/model_registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <stdexcept>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/model_version.h"
#include "server/retry_after.h"

namespace fla {
namespace {

// For so long the answer to a request is why the last load failed, before it is tried again.
constexpr auto kRetryAfter = std::chrono::seconds(5);

bool IsSet(const std::shared_ptr<const std::atomic<bool>>& flag) {
  return flag != nullptr && flag->load(std::memory_order_relaxed);
}

}  // namespace

absl::Status CannotBeLoaded(const std::string& model) {
  return absl::FailedPreconditionError(
      absl::StrCat("model ", model, " cannot be loaded; the server's log says why"));
}

ModelRegistry::ModelRegistry(const ServerOptions& options, Metrics& metrics, OnChange on_change)
    : metrics_(metrics),
      limits_(options.limits),
      on_change_(std::move(on_change)),
      table_(std::make_shared<const ModelTable>()),
      loader_([this] { Run(); }) {
  std::promise<absl::Status> outcome;
  Apply(options, [&outcome](absl::Status status) { outcome.set_value(std::move(status)); });
  const absl::Status status = outcome.get_future().get();
  if (status.ok()) return;
  {
    const std::lock_guard lock(mutex_);  // no destructor will run
    stopping_ = true;
  }
  wake_.Notify();
  loader_.join();
  throw std::runtime_error(absl::StrCat(status.message()));
}

ModelRegistry::~ModelRegistry() {
  Drain(Clock::now());
  {
    const std::lock_guard lock(mutex_);
    entries_.clear();
    Publish();
    stopping_ = true;
  }
  wake_.Notify();
  loader_.join();
}

std::shared_ptr<const ModelTable> ModelRegistry::table() const {
  const std::lock_guard lock(mutex_);
  return table_;
}

void ModelRegistry::Acquire(const std::string& name,
                            std::shared_ptr<const std::atomic<bool>> cancelled, OnLease ready) {
  const auto answer = [&]() -> absl::StatusOr<ModelLease> {
    const std::lock_guard lock(mutex_);
    Entry* entry = FindEntry(name);
    if (entry == nullptr) return NoEntry(name);
    const std::string& own_name = entry->options->name;
    if (entry->served != nullptr) return LeaseOf(*entry);
    if (closed_) return absl::UnavailableError("the server is draining");
    if (entry->unloaded) {
      return absl::UnavailableError(
          absl::StrCat("model ", own_name, " was unloaded; Control.LoadModel loads it again"));
    }
    if (entry->failed_at != Clock::time_point{} && Clock::now() < entry->failed_at + kRetryAfter) {
      for (const ModelTable::Failure& failure : failures_) {
        if (failure.name == own_name) return CannotBeLoaded(own_name);
      }
    }
    std::vector<Waiter>& waiters = entry->waiters;
    waiters.erase(std::remove_if(waiters.begin(), waiters.end(),
                                 [](const Waiter& waiter) { return IsSet(waiter.cancelled); }),
                  waiters.end());
    if (waiters.size() >= static_cast<size_t>(limits_.max_queued_requests)) {
      return WithRetryAfter(
          absl::ResourceExhaustedError(absl::StrCat("model ", own_name, " is being loaded, and ",
                                                    limits_.max_queued_requests,
                                                    " requests wait for it; try again later")),
          std::chrono::seconds(1));
    }
    waiters.push_back({name, std::move(cancelled), std::move(ready)});
    return ModelLease{};
  }();
  if (answer.ok() && answer->served == nullptr) {
    wake_.Notify();
  } else {
    ready(answer);
  }
}

void ModelRegistry::Apply(const ServerOptions& options, OnDone done) {
  OnDone refused, replaced;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) {
      refused = std::move(done);
    } else {
      if (next_) replaced = std::move(next_->done);
      next_ = Candidate{options, std::move(done), ++last_candidate_, {}};
      if (loading_ != nullptr && loading_candidate_) loading_->abandoned = true;
    }
  }
  if (refused) refused(absl::UnavailableError("the server is draining"));
  if (replaced) replaced(absl::AbortedError("a newer configuration came"));
  wake_.Notify();
}

void ModelRegistry::SetConfigError(const std::string& error) {
  const std::lock_guard lock(mutex_);
  config_error_ = error;
  Publish();
}

void ModelRegistry::CheckCheckpoints() {
  struct Looked {
    ModelOptions options;
    std::string version;
  };
  std::vector<Looked> looked;
  {
    const std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_) {
      if (entry.served != nullptr) looked.push_back({*entry.options, ""});
    }
  }
  for (Looked& one : looked) {
    try {
      one.version = ModelVersion(one.options);
    } catch (const std::exception& error) {
      // A folder that is being exchanged; the model that is served does not need it.
      spdlog::debug("model {}: {}", one.options.name, error.what());
    }
  }
  bool changed = false;
  {
    const std::lock_guard lock(mutex_);
    if (next_ || candidate_ || closed_) return;
    for (const Looked& one : looked) {
      Entry* entry = FindEntryNamed(one.options.name);
      if (entry == nullptr || entry->served == nullptr || one.version.empty()) continue;
      const bool at_rest = std::exchange(entry->seen_version, one.version) == one.version;
      if (!at_rest || one.version == entry->served->version) continue;
      if (std::any_of(failures_.begin(), failures_.end(), [&](const ModelTable::Failure& failure) {
            return failure.name == one.options.name && failure.version == one.version;
          })) {
        continue;
      }
      spdlog::info("model {}: its checkpoint has changed from {} to {}", one.options.name,
                   entry->served->version, one.version);
      changed = true;
    }
    if (changed) next_ = Candidate{live_, {}, ++last_candidate_, {}};
  }
  if (changed) wake_.Notify();
}

void ModelRegistry::Load(const std::string& name, const OnLease& done) {
  // Who may load may know why it does not go.
  const auto tell = [this, done](absl::StatusOr<ModelLease> lease) {
    if (absl::IsFailedPrecondition(lease.status())) {
      for (const ModelTable::Failure& failure : table()->failures) {
        if (CannotBeLoaded(failure.name) == lease.status()) {
          lease = absl::FailedPreconditionError(failure.reason);
        }
      }
    }
    done(std::move(lease));
  };
  bool served = false;
  ServerOptions live;
  {
    const std::lock_guard lock(mutex_);
    if (Entry* entry = FindEntry(name)) {
      entry->unloaded = false;
      entry->failed_at = {};
      served = entry->served != nullptr;
      live = live_;
    }
    // What is live must not replace what was to follow it.
    Candidate* const coming = next_ ? &*next_ : candidate_ ? &*candidate_ : nullptr;
    if (served && coming != nullptr) {
      coming->done = [this, name, done, earlier = std::move(coming->done)](absl::Status status) {
        if (earlier) earlier(std::move(status));
        Load(name, done);
      };
      return;
    }
  }
  if (!served) return Acquire(name, nullptr, tell);
  Apply(live, [this, name, tell](const absl::Status& status) {
    if (!status.ok()) return tell(status);
    Acquire(name, nullptr, tell);
  });
}

absl::Status ModelRegistry::Unload(const std::string& name) {
  std::vector<Waiter> waiters;
  absl::Status told;
  {
    const std::lock_guard lock(mutex_);
    Entry* entry = FindEntry(name);
    if (entry == nullptr) return NoEntry(name);
    const std::string& own_name = entry->options->name;
    told = absl::UnavailableError(absl::StrCat("model ", own_name, " was unloaded"));
    entry->unloaded = entry->options->preload;  // the others come back at their next use
    if (loading_ != nullptr && !loading_candidate_ && loading_->name == own_name) {
      loading_->abandoned = true;
    }
    if (entry->served != nullptr) {
      spdlog::info("model {} ({}): unloaded by request", own_name, entry->served->version);
      Retire(*entry);
      metrics_.ForModel(own_name).SetUnloaded();
    }
    waiters = std::exchange(entry->waiters, {});
    Publish();
  }
  for (const Waiter& waiter : waiters) waiter.ready(told);
  return absl::OkStatus();
}

bool ModelRegistry::Healthy() const {
  const std::lock_guard lock(mutex_);
  return std::all_of(entries_.begin(), entries_.end(), [](const Entry& entry) {
    return entry.served == nullptr || entry.served->engine->healthy();
  });
}

bool ModelRegistry::Drain(Clock::time_point deadline) {
  std::vector<std::shared_ptr<const ServedModel>> models;
  std::vector<Waiter> waiters;
  std::vector<OnDone> waiting;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    if (loading_ != nullptr) loading_->abandoned = true;
    for (const Entry& entry : entries_) {
      if (entry.served != nullptr) models.push_back(entry.served);
    }
    for (const ModelTable::Draining& draining : draining_) {
      if (auto served = draining.served.lock()) models.push_back(std::move(served));
    }
    waiters = TakeWaiters();
    for (std::optional<Candidate>* candidate : {&next_, &candidate_}) {
      if (*candidate && (*candidate)->done) waiting.push_back(std::move((*candidate)->done));
      candidate->reset();
    }
  }
  for (const auto& model : models) model->metrics->SetServing(false);
  const absl::Status status = absl::UnavailableError("the server is draining");
  for (const Waiter& waiter : waiters) waiter.ready(status);
  for (const OnDone& done : waiting) done(status);
  std::vector<std::future<bool>> drains;
  drains.reserve(models.size());
  for (const auto& model : models) {
    drains.push_back(std::async(std::launch::async,
                                [&model, deadline] { return model->engine->Drain(deadline); }));
  }
  bool complete = true;
  for (std::future<bool>& drain : drains) complete = drain.get() && complete;
  return complete;
}

ModelRegistry::Entry* ModelRegistry::FindEntry(const std::string& name) {
  const std::string& wanted = name.empty() ? live_.default_model : name;
  for (Entry& entry : entries_) {
    const std::vector<std::string>& aliases = entry.options->aliases;
    if (entry.options->name == wanted ||
        std::find(aliases.begin(), aliases.end(), wanted) != aliases.end()) {
      return &entry;
    }
  }
  return nullptr;
}

ModelRegistry::Entry* ModelRegistry::FindEntryNamed(const std::string& name) {
  for (Entry& entry : entries_) {
    if (entry.options->name == name) return &entry;
  }
  return nullptr;
}

absl::Status ModelRegistry::NoEntry(const std::string& name) const {
  return absl::NotFoundError(absl::StrCat("model: wanted one of ", table_->Names(), ", got ",
                                          absl::CEscape(name.substr(0, 128))));
}

ModelLease ModelRegistry::LeaseOf(const Entry& entry) {
  entry.served->last_used = Clock::now().time_since_epoch().count();
  return {entry.options, entry.served};
}

void ModelRegistry::Retire(Entry& entry) {
  draining_.push_back({entry.options->name, entry.served});
  entry.served.reset();
}

void ModelRegistry::SetFailure(const std::string& name, const std::string& version,
                               const std::string& reason) {
  ClearFailure(name);
  failures_.push_back({name, version, reason});
}

void ModelRegistry::ClearFailure(const std::string& name) {
  failures_.erase(
      std::remove_if(failures_.begin(), failures_.end(),
                     [&](const ModelTable::Failure& failure) { return failure.name == name; }),
      failures_.end());
}

void ModelRegistry::Publish() {
  auto table = std::make_shared<ModelTable>();
  for (const Entry& entry : entries_) {
    const bool failed = entry.failed_at != Clock::time_point{};
    table->entries.push_back({entry.options, entry.served, entry.unloaded, failed});
  }
  table->default_model = live_.default_model;
  if (loading_ != nullptr) table->loading.push_back(loading_);
  table->draining = draining_;
  table->failures = failures_;
  table->config_error = config_error_;
  table_ = std::move(table);
  if (on_change_ && !closed_) on_change_(*table_);
}

std::vector<ModelRegistry::Waiter> ModelRegistry::TakeWaiters() {
  std::vector<Waiter> all;
  for (Entry& entry : entries_) {
    for (Waiter& waiter : entry.waiters) all.push_back(std::move(waiter));
    entry.waiters.clear();
  }
  return all;
}

}  // namespace fla
