#include "server/model_table.h"

#include <algorithm>

namespace fla {

const ModelTable::Entry* ModelTable::Find(const std::string& name) const {
  const std::string& wanted = name.empty() ? default_model : name;
  for (const Entry& entry : entries) {
    const std::vector<std::string>& aliases = entry.options->aliases;
    if (entry.options->name == wanted ||
        std::find(aliases.begin(), aliases.end(), wanted) != aliases.end()) {
      return &entry;
    }
  }
  return nullptr;
}

bool ModelTable::Serves(const Entry& entry) const {
  if (entry.served != nullptr) return entry.served->engine->healthy();
  return !entry.unloaded && !entry.failed;
}

std::string ModelTable::Names() const {
  std::string names;
  for (const Entry& entry : entries) names += (names.empty() ? "" : ", ") + entry.options->name;
  return names;
}

}  // namespace fla
