#include "server/health.h"

namespace fla {
namespace {

constexpr const char* kServices[] = {"fla.v1.Inference", "fla.v1.Control"};

}  // namespace

void Health::Update(const ModelTable& table) {
  const std::lock_guard<std::mutex> lock(mutex_);
  serving_.clear();
  for (const ModelTable::Entry& entry : table.entries) {
    known_.insert(entry.options->name);
    if (table.Serves(entry)) serving_.insert(entry.options->name);
  }
  Tell();
}

void Health::Attach(grpc::HealthCheckServiceInterface& service) {
  const std::lock_guard<std::mutex> lock(mutex_);
  service_ = &service;
  for (const char* name : kServices) service.SetServingStatus(name, true);
  service.SetServingStatus(true);
  Tell();
}

void Health::Shutdown() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (service_ != nullptr) service_->Shutdown();
  service_ = nullptr;
}

// A model that has gone stays known, as NOT_SERVING: gRPC's service forgets no name.
void Health::Tell() {
  if (service_ == nullptr) return;
  for (const std::string& name : known_) {
    service_->SetServingStatus("fla.v1.Inference/" + name, serving_.count(name) != 0);
  }
}

}  // namespace fla
