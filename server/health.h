// What grpc.health.v1 says of the server, its services and its models.
#pragma once

#include <grpcpp/health_check_service_interface.h>

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "server/model_table.h"

namespace fla {

// A model's service is "fla.v1.Inference/NAME": SERVING where its requests are answered, if need be
// after loading it.
//
// Thread safety: all methods may be called from any thread.
class Health {
 public:
  // Takes notice of a table; before Attach too.
  void Update(const ModelTable& table);
  // From now on `service` is told: that the server and its services are SERVING, and what is known
  // of the models. It must live until Shutdown.
  void Attach(grpc::HealthCheckServiceInterface& service);
  // NOT_SERVING for good. May be called twice.
  void Shutdown();

 private:
  void Tell();  // with mutex_ held

  std::mutex mutex_;
  grpc::HealthCheckServiceInterface* service_ = nullptr;
  std::set<std::string> serving_;
  std::set<std::string> known_;  // every model there ever was
};

}  // namespace fla
