// The loader's thread of ModelRegistry: checks candidates, makes room, loads, commits, frees.
#include <malloc.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/model_registry.h"
#include "server/model_version.h"

namespace fla {
namespace {

// Left free on a device beyond what a model is known to need: activations and libraries.
constexpr int64_t kReserveBytes = int64_t{64} << 20;

absl::Status Led(const std::string& model, absl::StatusCode code, const std::string& what) {
  return {code, absl::StrCat("model ", model, ": ", what)};
}

// What can be told of the version of a model that may be broken.
std::string VersionOrNone(const ModelOptions& options) {
  try {
    return ModelVersion(options);
  } catch (const std::exception&) {
    return "";
  }
}

// Empty where the machine has no such device; the load will say so.
std::string DeviceOf(const ModelOptions& options) {
  try {
    return NameOf(ParseDevice(options.device));
  } catch (const std::exception&) {
    return "";
  }
}

int64_t LastUsed(const ServedModel& served) {
  // What runs is in use now.
  return served.engine->slots_used() > 0 ? Clock::now().time_since_epoch().count()
                                         : served.last_used.load();
}

std::string Megabytes(int64_t bytes) { return absl::StrCat((bytes + 999'999) / 1'000'000, " MB"); }

}  // namespace

void ModelRegistry::Run() {
  while (true) {
    wake_.Wait();
    while (Step()) {
    }
    const std::lock_guard lock(mutex_);
    if (stopping_ && loaded_.empty()) return;
  }
}

bool ModelRegistry::Step() {
  if (FreeReturned()) return true;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
  }
  if (PlanNext() || Commit()) return true;
  std::set<std::string> full;  // devices where somebody already waits for memory
  for (const Job& job : Jobs()) {
    const std::string device = DeviceOf(*job.options);
    if (full.count(device) != 0) continue;
    std::string why;
    switch (MakeRoom(job, why)) {
      case Room::kThere:
        RunJob(job);
        return true;
      case Room::kNever:
        FailJob(job, VersionOrNone(*job.options),
                Led(job.options->name, absl::StatusCode::kResourceExhausted, why));
        return true;
      case Room::kLater:
        full.insert(device);
    }
  }
  return false;
}

bool ModelRegistry::FreeReturned() {
  std::vector<std::unique_ptr<ServedModel>> returned;
  {
    const std::lock_guard lock(returned_mutex_);
    returned.swap(returned_);
  }
  if (returned.empty()) return false;
  for (std::unique_ptr<ServedModel>& served : returned) {
    spdlog::info("model {} ({}): freed", served->options.name, served->version);
    loaded_.erase(std::find_if(loaded_.begin(), loaded_.end(), [&](const Loaded& loaded) {
      return loaded.served == served.get();
    }));
    served.reset();
  }
  malloc_trim(0);  // back to the system, not to the allocator's lists
  const std::lock_guard lock(mutex_);
  draining_.erase(std::remove_if(draining_.begin(), draining_.end(),
                                 [](const auto& draining) { return draining.served.expired(); }),
                  draining_.end());
  Publish();
  return true;
}

// Checks the configuration that came last, whole. It becomes the candidate, or nothing changes.
bool ModelRegistry::PlanNext() {
  Candidate candidate;
  std::optional<Candidate> replaced;
  {
    const std::lock_guard lock(mutex_);
    if (!next_) return false;
    // next_ stays while it is checked, so that what comes meanwhile sees it.
    candidate.options = next_->options;
    candidate.number = next_->number;
    replaced = std::exchange(candidate_, std::nullopt);
  }
  if (replaced && replaced->done) {
    replaced->done(absl::AbortedError("a newer configuration came"));
  }
  for (const ModelOptions& options : candidate.options.models) {
    candidate.parts.push_back({std::make_shared<const ModelOptions>(options), "", false, nullptr});
    Candidate::Part& part = candidate.parts.back();
    try {
      part.key = LoadKey(options, ModelVersion(options));
      Plan(part);
      // What the candidate that it replaces has loaded need not be loaded twice.
      for (size_t i = 0; part.load && replaced && i < replaced->parts.size(); ++i) {
        const Candidate::Part& earlier = replaced->parts[i];
        if (earlier.options->name == options.name && earlier.key == part.key) {
          part.served = earlier.served;
        }
      }
    } catch (const std::exception& error) {
      {
        const std::lock_guard lock(mutex_);
        if (!TakeNext(candidate)) return true;
      }
      Reject(std::move(candidate), options.name, VersionOrNone(options),
             Led(options.name, absl::StatusCode::kFailedPrecondition, error.what()));
      return true;
    }
  }
  const std::lock_guard lock(mutex_);
  if (TakeNext(candidate)) candidate_ = std::move(candidate);
  return true;
}

bool ModelRegistry::TakeNext(Candidate& checked) {
  if (!next_ || next_->number != checked.number) return false;
  checked.done = std::move(next_->done);
  next_.reset();
  return true;
}

// Decides whether a part needs a load, and checks its files if it is not what is served. Throws.
void ModelRegistry::Plan(Candidate::Part& part) {
  bool known = false;
  {
    const std::lock_guard lock(mutex_);
    const Entry* entry = FindEntryNamed(part.options->name);
    known = entry != nullptr && entry->key == part.key;
    const bool served = entry != nullptr && entry->served != nullptr;
    const bool unloaded = known && entry->unloaded;
    part.load = (part.options->preload || served) && !unloaded && !(served && known);
  }
  if (!known || part.load) CheckModel(*part.options);
}

void ModelRegistry::Reject(Candidate candidate, const std::string& model,
                           const std::string& version, const absl::Status& status) {
  const std::string reason(status.message());
  {
    const std::lock_guard lock(mutex_);
    if (!entries_.empty()) {  // else it is the start that fails, and who starts says so
      spdlog::error("the configuration goes on as it was: {}", reason);
      metrics_.ForModel(model).CountSwap(SwapResult::kFailure);
    }
    candidate_.reset();
    SetFailure(model, version, reason);
    config_error_ = reason;
    Publish();
  }
  if (candidate.done) candidate.done(status);
}

// Makes the candidate live if all of it is loaded.
bool ModelRegistry::Commit() {
  OnDone done;
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    if (!candidate_ || std::any_of(candidate_->parts.begin(), candidate_->parts.end(),
                                   [](const auto& part) { return part.load && !part.served; })) {
      return false;
    }
    Candidate candidate = *std::exchange(candidate_, std::nullopt);
    const bool first = entries_.empty();
    waiters = TakeWaiters();
    std::vector<Entry> entries;
    for (Candidate::Part& part : candidate.parts) {
      const std::string& name = part.options->name;
      Entry entry;
      entry.options = part.options;
      entry.key = part.key;
      entry.served = std::move(part.served);
      Entry* old = FindEntryNamed(name);
      if (old != nullptr && old->key == part.key) {
        entry.unloaded = old->unloaded;
        if (entry.served == nullptr) entry.served = std::move(old->served);
        if (entry.served == nullptr) entry.failed_at = old->failed_at;
      } else if (entry.served != nullptr && !first) {
        spdlog::info("model {}: now served by version {}", name, entry.served->version);
        metrics_.ForModel(name).CountSwap(SwapResult::kSuccess);
      }
      if (part.load) {
        metrics_.ForModel(name).SetLoaded(entry.served->load_seconds, entry.served->labels());
      }
      if (entry.failed_at == Clock::time_point{}) ClearFailure(name);
      entries.push_back(std::move(entry));
    }
    for (Entry& old : entries_) {
      if (old.served == nullptr) continue;
      const std::string name = old.options->name;
      Retire(old);
      const bool served = std::any_of(entries.begin(), entries.end(), [&](const Entry& entry) {
        return entry.options->name == name && entry.served != nullptr;
      });
      if (!served) metrics_.ForModel(name).SetUnloaded();
    }
    entries_ = std::move(entries);
    live_ = std::move(candidate.options);
    failures_.erase(std::remove_if(failures_.begin(), failures_.end(),
                                   [this](const ModelTable::Failure& failure) {
                                     return FindEntryNamed(failure.name) == nullptr;
                                   }),
                    failures_.end());
    config_error_.clear();
    Publish();
    done = std::move(candidate.done);
  }
  // Names may mean other models now.
  for (Waiter& waiter : waiters) {
    Acquire(waiter.name, std::move(waiter.cancelled), std::move(waiter.ready));
  }
  if (done) done(absl::OkStatus());
  return true;
}

std::vector<ModelRegistry::Job> ModelRegistry::Jobs() {
  const std::lock_guard lock(mutex_);
  std::vector<Job> wanted, missing;
  for (Entry& entry : entries_) {
    if (entry.served != nullptr || entry.unloaded) continue;
    // The candidate brings a version of its own.
    if (candidate_ && std::any_of(candidate_->parts.begin(), candidate_->parts.end(),
                                  [&](const Candidate::Part& part) {
                                    return part.load && part.options->name == entry.options->name;
                                  })) {
      continue;
    }
    const bool waited_for =
        std::any_of(entry.waiters.begin(), entry.waiters.end(), [](const Waiter& waiter) {
          return waiter.cancelled == nullptr || !waiter.cancelled->load();
        });
    if (waited_for) wanted.push_back({entry.options, false});
    // Unloaded for a candidate that came to nothing, or for another model.
    if (!waited_for && entry.options->preload && entry.options->pinned &&
        entry.failed_at == Clock::time_point{}) {
      missing.push_back({entry.options, false});
    }
  }
  if (candidate_) {
    for (const Candidate::Part& part : candidate_->parts) {
      if (part.load && part.served == nullptr) wanted.push_back({part.options, true});
    }
  }
  wanted.insert(wanted.end(), missing.begin(), missing.end());
  return wanted;
}

std::vector<Resident> ModelRegistry::ResidentsOf(const std::string& device, const Job& job) {
  std::vector<Resident> residents;
  for (const Loaded& loaded : loaded_) {
    if (loaded.device != device) {
      residents.push_back({});  // keeps the indices of loaded_
      continue;
    }
    Resident resident;
    resident.bytes = loaded.bytes;
    resident.leaving = true;
    for (const Entry& entry : entries_) {
      if (entry.served.get() != loaded.served) continue;
      const std::string& name = entry.options->name;
      const bool same = name == job.options->name;
      const bool goes =
          candidate_ && std::none_of(candidate_->parts.begin(), candidate_->parts.end(),
                                     [&](const auto& part) { return part.options->name == name; });
      resident.leaving = false;
      resident.evictable = !entry.options->pinned && !same;
      resident.replaced =
          job.of_candidate && (same || goes) && job.options->when_full == WhenFull::kDrainThenLoad;
      resident.last_used = LastUsed(*entry.served);
    }
    for (size_t i = 0; candidate_ && i < candidate_->parts.size(); ++i) {
      if (candidate_->parts[i].served.get() == loaded.served) resident.leaving = false;
    }
    residents.push_back(resident);
  }
  return residents;
}

ModelRegistry::Room ModelRegistry::MakeRoom(const Job& job, std::string& why) {
  MemoryDemand demand;
  std::string device;
  try {
    const Device parsed = ParseDevice(job.options->device);
    device = NameOf(parsed);
    demand.needed = FootprintOf(*job.options);
    demand.free = static_cast<int64_t>(FreeMemory(parsed)) - kReserveBytes;
  } catch (const std::exception&) {
    return Room::kThere;  // the load will say what is wrong
  }
  const std::lock_guard lock(mutex_);
  const std::map<std::string, int64_t>& limits =
      job.of_candidate && candidate_ ? candidate_->options.memory_bytes : live_.memory_bytes;
  const auto limit = limits.find(device);
  demand.limit = limit == limits.end() ? std::numeric_limits<int64_t>::max() : limit->second;
  const std::vector<Resident> residents = ResidentsOf(device, job);
  const MemoryPlan plan = PlanMemory(residents, demand);
  if (plan.kind == MemoryPlan::Kind::kLoad) return Room::kThere;
  if (plan.kind == MemoryPlan::Kind::kRefuse) {
    int64_t taken = 0;
    for (const Resident& resident : residents) taken += resident.bytes;
    why = absl::StrCat("needs ", Megabytes(demand.needed), " on ", device, ", where models take ",
                       Megabytes(taken), limit == limits.end() ? "" : " of the ",
                       limit == limits.end() ? "" : Megabytes(demand.limit) + " of memory_mib",
                       " and ", Megabytes(std::max<int64_t>(demand.free, 0)),
                       " are free; nothing that may be unloaded makes enough room");
    return Room::kNever;
  }
  for (const int index : plan.unload) {
    for (Entry& entry : entries_) {
      if (entry.served.get() != loaded_[index].served) continue;
      spdlog::info("model {} ({}): unloaded to make room for {}", entry.options->name,
                   entry.served->version, job.options->name);
      Retire(entry);
      metrics_.ForModel(entry.options->name).SetUnloaded();
    }
  }
  if (!plan.unload.empty()) Publish();
  return Room::kLater;
}

std::shared_ptr<ServedModel> ModelRegistry::Share(std::unique_ptr<ServedModel> served) {
  loaded_.push_back({served.get(), served->device, served->bytes});
  return {served.release(), [this](ServedModel* last) {
            std::unique_ptr<ServedModel> owned(last);
            {
              const std::lock_guard lock(returned_mutex_);
              returned_.push_back(std::move(owned));
            }
            wake_.Notify();
          }};
}

void ModelRegistry::RunJob(const Job& job) {
  const ModelOptions& options = *job.options;
  auto progress = std::make_shared<LoadProgress>();
  progress->name = options.name;
  progress->version = VersionOrNone(options);
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || (job.of_candidate && next_)) return;
    loading_ = progress;
    loading_candidate_ = job.of_candidate;
    Publish();
  }
  std::shared_ptr<ServedModel> served;
  absl::Status status;
  try {
    served = Share(LoadServedModel(options, limits_, metrics_, *progress));
  } catch (const LoadAbandoned& abandoned) {
    status = absl::AbortedError(abandoned.what());
  } catch (const std::exception& error) {
    status = Led(options.name, absl::StatusCode::kFailedPrecondition, error.what());
  }
  {
    const std::lock_guard lock(mutex_);
    loading_.reset();
  }
  if (served != nullptr) {
    FinishJob(job, std::move(served));
  } else if (!absl::IsAborted(status)) {
    FailJob(job, progress->version, status);
  } else {
    spdlog::info("model {} ({}): load abandoned", options.name, progress->version);
    const std::lock_guard lock(mutex_);
    Publish();
  }
}

void ModelRegistry::FinishJob(const Job& job, std::shared_ptr<ServedModel> served) {
  std::vector<Waiter> waiters;
  absl::StatusOr<ModelLease> lease;
  {
    const std::lock_guard lock(mutex_);
    if (job.of_candidate) {
      for (size_t i = 0; candidate_ && i < candidate_->parts.size(); ++i) {
        Candidate::Part& part = candidate_->parts[i];
        if (part.options != job.options) continue;
        part.key = served->key;
        part.served = served;
      }
    } else if (Entry* entry = FindEntryNamed(job.options->name);
               entry != nullptr && entry->options == job.options && !entry->unloaded && !closed_) {
      entry->key = served->key;
      entry->served = std::move(served);
      entry->failed_at = {};
      ClearFailure(job.options->name);
      entry->served->metrics->SetLoaded(entry->served->load_seconds, entry->served->labels());
      waiters = std::exchange(entry->waiters, {});
      lease = LeaseOf(*entry);
    }
    Publish();
  }
  for (const Waiter& waiter : waiters) waiter.ready(lease);
}

void ModelRegistry::FailJob(const Job& job, const std::string& version,
                            const absl::Status& status) {
  if (job.of_candidate) {
    Candidate candidate;
    {
      const std::lock_guard lock(mutex_);
      if (!candidate_) return;
      candidate = *std::exchange(candidate_, std::nullopt);
    }
    return Reject(std::move(candidate), job.options->name, version, status);
  }
  const std::string reason(status.message());
  spdlog::error("{}", reason);
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    Entry* entry = FindEntryNamed(job.options->name);
    if (entry != nullptr && entry->options == job.options) {
      entry->failed_at = Clock::now();
      waiters = std::exchange(entry->waiters, {});
      SetFailure(job.options->name, version, reason);
    }
    Publish();
  }
  const absl::Status told =
      absl::IsResourceExhausted(status) ? status : CannotBeLoaded(job.options->name);
  for (const Waiter& waiter : waiters) waiter.ready(told);
}

}  // namespace fla
