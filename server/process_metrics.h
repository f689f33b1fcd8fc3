// What /proc says about this process, under the names that all Prometheus clients use.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <vector>

namespace fla {

// Reads /proc at each scrape.
//
// Thread safety: all methods may be called from any thread.
class ProcessMetrics : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace fla
