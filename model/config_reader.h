// Typed access to the keys of a config.json, with errors that name file and key.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace fla {

// Thread safety: immutable; the JSON must outlive it.
class ConfigReader {
 public:
  ConfigReader(std::string file, const nlohmann::json& object)
      : file_(std::move(file)), object_(object) {}

  // The value of a key; `fallback` where the key is absent or null.
  int Int(const std::string& key, int fallback) const;
  // >= 1.
  int PositiveInt(const std::string& key, int fallback) const;
  float Float(const std::string& key, float fallback) const;
  bool Bool(const std::string& key, bool fallback) const;
  std::string String(const std::string& key, const std::string& fallback) const;
  std::optional<float> OptionalFloat(const std::string& key) const;
  std::optional<int> OptionalInt(const std::string& key) const;
  // Absent or null.
  bool Missing(const std::string& key) const;
  const nlohmann::json& Raw(const std::string& key) const { return object_.at(key); }

  // factor * value as an integer; fails where it is none (expand_k and the like).
  int Scaled(const std::string& what, int value, float factor) const;
  // value / divisor; fails where it leaves a remainder.
  int Divided(const std::string& what, int value, int divisor) const;

  // Throws std::runtime_error "file: what: wanted, got".
  [[noreturn]] void Fail(const std::string& key, const std::string& wanted,
                         const std::string& got) const;
  [[noreturn]] void FailValue(const std::string& key, const std::string& wanted) const;

 private:
  std::string file_;
  const nlohmann::json& object_;
};

}  // namespace fla
