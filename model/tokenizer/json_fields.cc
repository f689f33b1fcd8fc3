#include "model/tokenizer/json_fields.h"

#include <fstream>
#include <limits>
#include <stdexcept>
#include <utility>

#include "model/git_lfs.h"

namespace fla::tokenizer {
namespace {

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr int kMaxDepth = 64;

int Depth(const std::string& text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

Json ReadJsonFile(const std::filesystem::path& file) {
  const auto fail = [&](const std::string& what) -> void {
    throw std::runtime_error(file.string() + ": " + what);
  };
  std::error_code error;
  const auto bytes = std::filesystem::file_size(file, error);
  if (error) fail("wanted a readable file, got: " + error.message());
  if (bytes > kMaxFileBytes) {
    fail("size: wanted at most " + std::to_string(kMaxFileBytes) + " bytes, got " +
         std::to_string(bytes));
  }
  std::ifstream in(file, std::ios::binary);
  std::string text(bytes, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(bytes))) fail("cannot be read");
  if (IsGitLfsPointer(text)) fail(std::string("wanted JSON, got ") + kGitLfsPointer);
  if (const int depth = Depth(text); depth > kMaxDepth) {
    fail("nesting: wanted at most " + std::to_string(kMaxDepth) + " levels, got " +
         std::to_string(depth));
  }
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    throw std::runtime_error(file.string() + ": wanted JSON, got: " + e.what());
  }
}

std::string Shown(const Json& value) {
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

Fields::Fields(const Json& object, std::string where) : object(object), where(std::move(where)) {
  if (!object.is_object()) {
    throw std::runtime_error(this->where + ": wanted an object, got " + Shown(object));
  }
}

void Fields::Fail(const std::string& field, const std::string& wanted,
                  const std::string& got) const {
  throw std::runtime_error(where + ": " + field + ": wanted " + wanted + ", got " + got);
}

const Json* Fields::Find(const char* field) const {
  const auto it = object.find(field);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

const Json& Fields::Get(const char* field) const {
  const Json* value = Find(field);
  if (value == nullptr) Fail(field, "a value", "nothing");
  return *value;
}

const Json& Fields::Array(const char* field) const {
  const Json& value = Get(field);
  if (!value.is_array()) Fail(field, "an array", Shown(value));
  return value;
}

std::string Fields::String(const char* field) const {
  const Json& value = Get(field);
  if (!value.is_string()) Fail(field, "a string", Shown(value));
  return value.get<std::string>();
}

int Fields::Integer(const char* field) const {
  const Json& value = Get(field);
  if (!value.is_number_integer()) Fail(field, "an integer", Shown(value));
  // Unsigned values beyond int64 turn negative here, and are out of range like all others.
  const auto number = value.get<int64_t>();
  if (number < 0 || number > std::numeric_limits<int>::max()) {
    Fail(field, "an integer from 0 to 2147483647", Shown(value));
  }
  return static_cast<int>(number);
}

bool Fields::Bool(const char* field, std::optional<bool> fallback) const {
  const Json* value = Find(field);
  if (value == nullptr && fallback) return *fallback;
  const Json& given = Get(field);
  if (!given.is_boolean()) Fail(field, "true or false", Shown(given));
  return given.get<bool>();
}

std::string Fields::StringOr(const char* field, const std::string& fallback) const {
  return Find(field) == nullptr ? fallback : String(field);
}

}  // namespace fla::tokenizer
