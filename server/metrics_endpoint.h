// The HTTP endpoint that Prometheus scrapes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/metrics.h"

namespace prometheus {
class Collectable;
class Exposer;
}  // namespace prometheus

namespace fla {

// Answers /metrics on threads of its own for as long as it lives: the server's metrics, those of
// the process and, where there are GPUs, theirs.
//
// Thread safety: immutable.
class MetricsEndpoint {
 public:
  // `address` is host:port; port 0 takes a free one. With `vllm_names` everything that vLLM has too
  // is there once more under its name. `metrics` must outlive this. Throws std::runtime_error if
  // it cannot listen.
  MetricsEndpoint(const std::string& address, const Metrics& metrics, bool vllm_names);
  ~MetricsEndpoint();

  int port() const;

 private:
  std::vector<std::shared_ptr<prometheus::Collectable>> collected_;  // the exposer holds no share
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace fla
