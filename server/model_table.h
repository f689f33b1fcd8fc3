// What a server serves at one moment, as the services read it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/served_model.h"

namespace fla {

// An immutable snapshot. Holding it keeps its models loaded: do so for a moment only.
struct ModelTable {
  // One model of the live config.
  struct Entry {
    std::shared_ptr<const ModelOptions> options;
    std::shared_ptr<const ServedModel> served;  // null: not loaded
    bool unloaded = false;                      // by Control.UnloadModel
    bool failed = false;                        // the last load of what `options` say
  };
  struct Draining {
    std::string name;
    std::weak_ptr<const ServedModel> served;
  };
  // The last load of a model that failed, of the live config or of one that was not taken, until
  // one succeeds or another config is live.
  struct Failure {
    std::string name;
    std::string version;  // empty where it could not be told
    std::string reason;
  };

  std::vector<Entry> entries;  // in the order of the config
  std::string default_model;
  std::vector<std::shared_ptr<const LoadProgress>> loading;
  std::vector<Draining> draining;
  std::vector<Failure> failures;
  std::string config_error;  // why the last config file was not taken; empty: it was

  // By name or alias, the default model for an empty name; null if there is none.
  const Entry* Find(const std::string& name) const;
  // Whether requests for the model can be answered, if need be after loading it.
  bool Serves(const Entry& entry) const;
  // The names, with commas.
  std::string Names() const;
};

}  // namespace fla
