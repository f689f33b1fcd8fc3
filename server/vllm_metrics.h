// The server's metrics once more, under the names that vLLM gives to the same things. Kubernetes'
// inference routers (Gateway API inference extension, llm-d) and many dashboards know only those.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <memory>
#include <vector>

namespace fla {

// Translates at each scrape, so that nothing is counted twice while serving.
//
// Thread safety: all methods may be called from any thread.
class VllmMetrics : public prometheus::Collectable {
 public:
  explicit VllmMetrics(std::shared_ptr<const prometheus::Registry> registry);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<const prometheus::Registry> registry_;
};

}  // namespace fla
