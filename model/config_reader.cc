#include "model/config_reader.h"

#include <climits>
#include <cmath>
#include <stdexcept>

namespace fla {
namespace {

struct RenamedKey {
  std::string_view key;
  std::string_view old_key;
};

// As the library's configurations had them until March and June 2024.
constexpr RenamedKey kRenamedKeys[] = {
    {"num_heads", "num_attention_heads"},
    {"num_kv_heads", "num_key_value_heads"},
    {"norm_eps", "rms_norm_eps"},
};

}  // namespace

const ConfigOption* ConfigReader::FindOption(const std::string& key) const {
  for (const std::span<const ConfigOption> options : options_) {
    for (const ConfigOption& option : options) {
      if (option.key == key) return &option;
    }
  }
  return nullptr;
}

const nlohmann::json* ConfigReader::Find(const std::string& key) const {
  if (!options_.empty() && FindOption(key) == nullptr) {
    throw std::logic_error("config.json: the table of options lacks " + key);
  }
  keys_read_.insert(key);
  auto found = object_.find(key);
  if (found != object_.end() && !found->is_null()) return &*found;
  for (const RenamedKey& renamed : kRenamedKeys) {
    if (renamed.key != key) continue;
    found = object_.find(renamed.old_key);
    if (found != object_.end() && !found->is_null()) return &*found;
  }
  return nullptr;
}

void ConfigReader::Fail(const std::string& key, const std::string& wanted,
                        const std::string& got) const {
  throw ConfigError(file_, key, "wanted " + wanted + ", got " + got);
}

void ConfigReader::FailValue(const std::string& key, const std::string& wanted) const {
  const nlohmann::json* value = Find(key);
  using Handler = nlohmann::json::error_handler_t;
  Fail(key, wanted,
       value == nullptr ? "nothing" : value->dump(-1, ' ', false, Handler::replace).substr(0, 120));
}

bool ConfigReader::Missing(const std::string& key) const { return Find(key) == nullptr; }

std::optional<int> ConfigReader::OptionalInt(const std::string& key) const {
  if (Missing(key)) return std::nullopt;
  const auto& value = Raw(key);
  if (!value.is_number_integer()) FailValue(key, "an integer");
  const auto number = value.get<int64_t>();
  if (number < INT_MIN || number > INT_MAX) FailValue(key, "a 32-bit integer");
  return static_cast<int>(number);
}

std::optional<float> ConfigReader::OptionalFloat(const std::string& key) const {
  if (Missing(key)) return std::nullopt;
  const auto& value = Raw(key);
  if (!value.is_number()) FailValue(key, "a number");
  const auto number = value.get<float>();
  if (!std::isfinite(number)) FailValue(key, "a finite number");
  return number;
}

int ConfigReader::Int(const std::string& key, int fallback) const {
  return OptionalInt(key).value_or(fallback);
}

int ConfigReader::PositiveInt(const std::string& key, int fallback) const {
  const int value = Int(key, fallback);
  if (value < 1) FailValue(key, "at least 1");
  return value;
}

float ConfigReader::Float(const std::string& key, float fallback) const {
  return OptionalFloat(key).value_or(fallback);
}

bool ConfigReader::Bool(const std::string& key, bool fallback) const {
  if (Missing(key)) return fallback;
  if (!Raw(key).is_boolean()) FailValue(key, "true or false");
  return Raw(key).get<bool>();
}

std::string ConfigReader::String(const std::string& key, const std::string& fallback) const {
  if (Missing(key)) return fallback;
  if (!Raw(key).is_string()) FailValue(key, "a string");
  return Raw(key).get<std::string>();
}

std::string ConfigReader::Choice(const std::string& key, const std::string& fallback) const {
  std::string value = String(key, fallback);
  const ConfigOption* option = FindOption(key);
  if (option == nullptr) throw std::logic_error("config.json: no values are known of " + key);
  std::string_view left = option->values;
  while (!left.empty()) {
    const size_t end = left.find(", ");
    if (left.substr(0, end) == value) return value;
    left = end == left.npos ? std::string_view() : left.substr(end + 2);
  }
  FailValue(key, "one of " + std::string(option->values));
}

int ConfigReader::Scaled(const std::string& what, int value, float factor) const {
  const double scaled = static_cast<double>(value) * factor;
  const double rounded = std::round(scaled);
  if (rounded < 1 || rounded > INT_MAX || std::abs(scaled - rounded) > 1e-5 * rounded) {
    Fail(what, "a positive integer", std::to_string(scaled));
  }
  return static_cast<int>(rounded);
}

int ConfigReader::Divided(const std::string& what, int value, int divisor) const {
  if (value % divisor != 0) {
    Fail(what, "a multiple of " + std::to_string(divisor), std::to_string(value));
  }
  return value / divisor;
}

}  // namespace fla
