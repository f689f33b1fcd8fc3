// Reads a JSON config file object by object, key by key, with errors that say where and what.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>

#include "server/json_lines.h"

namespace fla {

// A config file's text as JSON, with the lines of its values.
struct ConfigText {
  // Throws std::runtime_error "file:line: ..." for what is no JSON or has a key twice in an object.
  ConfigText(std::string_view text, std::string file);

  std::string file;
  nlohmann::json json;
  JsonLines lines;
};

// One object of a config file. A key that nobody asked for is an error (RefuseOthers). All errors
// are std::runtime_error "file:line: key path: wanted ..., got ...".
//
// Thread safety: one thread at a time.
class ConfigSection {
 public:
  using Json = nlohmann::json;

  // `path` is that of the object, empty for the whole file. The arguments must outlive this.
  ConfigSection(const ConfigText& text, const Json& object, std::string path);

  // Each of these leaves `value` as it is when the key is absent.
  void Read(const char* key, std::string& value);
  void Read(const char* key, bool& value);
  void Read(const char* key, int& value, int64_t least, int64_t most);
  void Read(const char* key, int64_t& value, int64_t least, int64_t most);
  void Read(const char* key, double& value, double least, double most);

  // Null when the key is absent.
  const Json* Find(const char* key);
  const Json& Require(const char* key, const std::string& wanted);
  // The object under `key`.
  ConfigSection Child(const char* key, const Json& object) const {
    return {text_, object, PathOf(key)};
  }

  std::string PathOf(const std::string& key) const;

  [[noreturn]] void Fail(const std::string& path, const std::string& wanted, const Json& got) const;
  [[noreturn]] void FailWith(const std::string& path, const std::string& what) const;

  // Call when every key has been read.
  void RefuseOthers() const;

 private:
  const ConfigText& text_;
  const Json& object_;
  std::string path_;
  std::set<std::string> known_;
};

}  // namespace fla
