// Typed access to the fields of a tokenizer's JSON files.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace fla::tokenizer {

using Json = nlohmann::json;

// The JSON value in a file of at most 64 MiB, nested at most 64 deep. Throws std::runtime_error
// "file: what: wanted, got".
Json ReadJsonFile(const std::filesystem::path& file);

// The fields of one object. Every error names `where`, the object's place in the file, and the
// field.
struct Fields {
  const Json& object;
  std::string where;

  // Throws std::runtime_error unless `object` is one.
  Fields(const Json& object, std::string where);

  [[noreturn]] void Fail(const std::string& field, const std::string& wanted,
                         const std::string& got) const;
  // Null where the field is missing or null.
  const Json* Find(const char* field) const;
  const Json& Get(const char* field) const;  // throws where Find gives null
  const Json& Array(const char* field) const;
  std::string String(const char* field) const;
  int Integer(const char* field) const;
  bool Bool(const char* field, std::optional<bool> fallback = std::nullopt) const;
  std::string StringOr(const char* field, const std::string& fallback) const;
};

// A value as error messages show it: shortened.
std::string Shown(const Json& value);

}  // namespace fla::tokenizer
