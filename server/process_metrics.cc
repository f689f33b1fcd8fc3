#include "server/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>

#include "server/scraped_families.h"

namespace fla {
namespace {

using prometheus::MetricType;

// Fields of /proc/self/stat; see proc(5), whose numbers these are.
struct ProcessStat {
  double user_ticks = 0;      // 14
  double system_ticks = 0;    // 15
  double threads = 0;         // 20
  double start_ticks = 0;     // 22, after boot
  double virtual_bytes = 0;   // 23
  double resident_pages = 0;  // 24
};

bool Read(ProcessStat& stat) {
  std::ifstream file("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const size_t name_end = text.rfind(')');  // the name may hold spaces
  if (name_end == std::string::npos) return false;
  std::istringstream rest(text.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 14; ++field) rest >> skipped;
  rest >> stat.user_ticks >> stat.system_ticks;
  for (int field = 16; field < 20; ++field) rest >> skipped;
  rest >> stat.threads >> skipped >> stat.start_ticks >> stat.virtual_bytes >> stat.resident_pages;
  return static_cast<bool>(rest);
}

// Unix time at which the machine came up; 0 if unknown.
double BootSeconds() {
  std::ifstream file("/proc/stat");
  std::string key;
  while (file >> key) {
    double value = 0;
    if (key == "btime" && file >> value) return value;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

int OpenFiles() {
  std::error_code error;
  std::filesystem::directory_iterator entries("/proc/self/fd", error);
  if (error) return 0;
  // One of them is that of the iterator itself.
  return static_cast<int>(std::distance(begin(entries), end(entries))) - 1;
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics::Collect() const {
  ProcessStat stat;
  if (!Read(stat)) return {};
  const double tick = 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK));
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&](const char* name, const char* help, MetricType type, double value) {
    families.push_back(MakeFamily(name, help, type));
    AddSample(families.back(), value);
  };
  add("process_cpu_seconds_total", "Time on processors, in user and system mode.",
      MetricType::Counter, (stat.user_ticks + stat.system_ticks) * tick);
  add("process_resident_memory_bytes", "Main memory in use.", MetricType::Gauge,
      stat.resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE)));
  add("process_virtual_memory_bytes", "Address space in use.", MetricType::Gauge,
      stat.virtual_bytes);
  add("process_start_time_seconds", "When the process began, in Unix time.", MetricType::Gauge,
      BootSeconds() + stat.start_ticks * tick);
  add("process_threads", "Threads.", MetricType::Gauge, stat.threads);
  add("process_open_fds", "Open file descriptors.", MetricType::Gauge, OpenFiles());
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    add("process_max_fds", "File descriptors that may be open.", MetricType::Gauge,
        static_cast<double>(limit.rlim_cur));
  }
  return families;
}

}  // namespace fla
