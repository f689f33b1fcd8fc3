#include "model/config_reader.h"

#include <climits>
#include <cmath>
#include <stdexcept>

namespace fla {

void ConfigReader::Fail(const std::string& key, const std::string& wanted,
                        const std::string& got) const {
  throw std::runtime_error(file_ + ": " + key + ": wanted " + wanted + ", got " + got);
}

void ConfigReader::FailValue(const std::string& key, const std::string& wanted) const {
  Fail(key, wanted, Missing(key) ? "nothing" : object_.at(key).dump().substr(0, 120));
}

bool ConfigReader::Missing(const std::string& key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null();
}

std::optional<int> ConfigReader::OptionalInt(const std::string& key) const {
  if (Missing(key)) return std::nullopt;
  const auto& value = object_.at(key);
  if (!value.is_number_integer()) FailValue(key, "an integer");
  const auto number = value.get<int64_t>();
  if (number < INT_MIN || number > INT_MAX) FailValue(key, "a 32-bit integer");
  return static_cast<int>(number);
}

std::optional<float> ConfigReader::OptionalFloat(const std::string& key) const {
  if (Missing(key)) return std::nullopt;
  const auto& value = object_.at(key);
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
  if (!object_.at(key).is_boolean()) FailValue(key, "true or false");
  return object_.at(key).get<bool>();
}

std::string ConfigReader::String(const std::string& key, const std::string& fallback) const {
  if (Missing(key)) return fallback;
  if (!object_.at(key).is_string()) FailValue(key, "a string");
  return object_.at(key).get<std::string>();
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
