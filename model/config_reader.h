// Typed access to the keys of a config.json, with errors that name file and key.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fla {

// A key that a model reads from its config.json.
struct ConfigOption {
  std::string_view key;
  std::string_view values;  // as people read it; of Choice: the values, parted by ", "
};

// A value of a config.json that cannot be served: "file: key: wanted, got".
class ConfigError : public std::runtime_error {
 public:
  ConfigError(const std::string& file, std::string key, const std::string& problem)
      : std::runtime_error(file + ": " + key + ": " + problem), key_(std::move(key)) {}
  const std::string& key() const { return key_; }

 private:
  std::string key_;
};

// A key is also found under the name that earlier versions of the library wrote it by
// (num_attention_heads for num_heads, ...).
//
// Thread safety: one thread at a time; the JSON and the options must outlive it.
class ConfigReader {
 public:
  ConfigReader(std::string file, const nlohmann::json& object)
      : file_(std::move(file)), object_(object) {}
  // With the keys that may be read: reading another one is a std::logic_error, so that the table of
  // options that people see cannot lack one.
  ConfigReader(std::string file, const nlohmann::json& object,
               std::vector<std::span<const ConfigOption>> options)
      : file_(std::move(file)), object_(object), options_(std::move(options)) {}

  // The value of a key; `fallback` where the key is absent or null.
  int Int(const std::string& key, int fallback) const;
  // >= 1.
  int PositiveInt(const std::string& key, int fallback) const;
  float Float(const std::string& key, float fallback) const;
  bool Bool(const std::string& key, bool fallback) const;
  std::string String(const std::string& key, const std::string& fallback) const;
  // A string that is one of the option's values.
  std::string Choice(const std::string& key, const std::string& fallback) const;
  std::optional<float> OptionalFloat(const std::string& key) const;
  std::optional<int> OptionalInt(const std::string& key) const;
  // Whether the key is among the options.
  bool Knows(const std::string& key) const { return FindOption(key) != nullptr; }
  // Absent or null.
  bool Missing(const std::string& key) const;
  // The value of a key that is there.
  const nlohmann::json& Raw(const std::string& key) const { return *Find(key); }

  // factor * value as an integer; fails where it is none (expand_k and the like).
  int Scaled(const std::string& what, int value, float factor) const;
  // value / divisor; fails where it leaves a remainder.
  int Divided(const std::string& what, int value, int divisor) const;

  // The keys that were asked for so far.
  const std::set<std::string>& keys_read() const { return keys_read_; }

  // Throws ConfigError "file: what: wanted, got".
  [[noreturn]] void Fail(const std::string& key, const std::string& wanted,
                         const std::string& got) const;
  [[noreturn]] void FailValue(const std::string& key, const std::string& wanted) const;

 private:
  const ConfigOption* FindOption(const std::string& key) const;
  // Null where the key is absent or null.
  const nlohmann::json* Find(const std::string& key) const;

  std::string file_;
  const nlohmann::json& object_;
  std::vector<std::span<const ConfigOption>> options_;  // empty: any key may be read
  mutable std::set<std::string> keys_read_;
};

}  // namespace fla
