#include "server/config_section.h"

#include <limits>
#include <stdexcept>
#include <utility>

namespace fla {
namespace {

using Json = nlohmann::json;

// Reads only to find where a file goes wrong: number overflows carry no position otherwise.
struct ErrorPosition : nlohmann::json_sax<Json> {
  size_t position = 0;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return true; }
  bool key(string_t&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(size_t at, const std::string&, const Json::exception&) override {
    position = at;
    return false;
  }
};

Json Parse(std::string_view text, const std::string& file) {
  // The parser would take it for the end and leave the rest unread.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw std::runtime_error(file + ":" + std::to_string(LineAt(text, zero)) +
                             ": the file: wanted JSON, got a zero byte");
  }
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    throw std::runtime_error(file + ":" + std::to_string(LineAt(text, error.byte)) +
                             ": the file: wanted JSON, got " + error.what());
  } catch (const Json::exception& error) {  // a number that no double can hold
    ErrorPosition where;
    Json::sax_parse(text.begin(), text.end(), &where);
    throw std::runtime_error(file + ":" + std::to_string(LineAt(text, where.position)) +
                             ": the file: wanted JSON, got " + error.what());
  }
}

}  // namespace

ConfigText::ConfigText(std::string_view text, std::string file_name)
    : file(std::move(file_name)), json(Parse(text, file)), lines(text) {
  if (!lines.doubled().empty()) {
    throw std::runtime_error(file + ":" + std::to_string(lines.LineOf(lines.doubled())) + ": " +
                             lines.doubled() + ": wanted once, got twice in one object");
  }
}

ConfigSection::ConfigSection(const ConfigText& text, const Json& object, std::string path)
    : text_(text), object_(object), path_(std::move(path)) {
  if (!object_.is_object()) Fail(path_, "an object", object_);
}

void ConfigSection::Read(const char* key, std::string& value) {
  if (const Json* json = Find(key)) {
    if (!json->is_string()) Fail(PathOf(key), "a string", *json);
    value = json->get<std::string>();
  }
}

void ConfigSection::Read(const char* key, bool& value) {
  if (const Json* json = Find(key)) {
    if (!json->is_boolean()) Fail(PathOf(key), "true or false", *json);
    value = json->get<bool>();
  }
}

void ConfigSection::Read(const char* key, int64_t& value, int64_t least, int64_t most) {
  if (const Json* json = Find(key)) {
    // Above int64 is stored as unsigned and would wrap.
    const bool fits = json->is_number_integer() &&
                      (!json->is_number_unsigned() ||
                       json->get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
    if (!fits || json->get<int64_t>() < least || json->get<int64_t>() > most) {
      Fail(PathOf(key), "an integer from " + std::to_string(least) + " to " + std::to_string(most),
           *json);
    }
    value = json->get<int64_t>();
  }
}

void ConfigSection::Read(const char* key, int& value, int64_t least, int64_t most) {
  int64_t wide = value;
  Read(key, wide, least, most);
  value = static_cast<int>(wide);
}

void ConfigSection::Read(const char* key, double& value, double least, double most) {
  if (const Json* json = Find(key)) {
    if (!json->is_number() || !(json->get<double>() >= least && json->get<double>() <= most)) {
      Fail(PathOf(key), "a number from " + Json(least).dump() + " to " + Json(most).dump(), *json);
    }
    value = json->get<double>();
  }
}

const Json* ConfigSection::Find(const char* key) {
  known_.insert(key);
  const auto found = object_.find(key);
  return found == object_.end() ? nullptr : &*found;
}

const Json& ConfigSection::Require(const char* key, const std::string& wanted) {
  const Json* json = Find(key);
  if (json == nullptr) FailWith(PathOf(key), "wanted " + wanted + ", got nothing");
  return *json;
}

std::string ConfigSection::PathOf(const std::string& key) const {
  return path_.empty() ? key : path_ + "." + key;
}

void ConfigSection::Fail(const std::string& path, const std::string& wanted,
                         const Json& got) const {
  std::string text = got.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  FailWith(path, "wanted " + wanted + ", got " + text);
}

void ConfigSection::FailWith(const std::string& path, const std::string& what) const {
  throw std::runtime_error(text_.file + ":" + std::to_string(text_.lines.LineOf(path)) + ": " +
                           (path.empty() ? "the file" : path) + ": " + what);
}

void ConfigSection::RefuseOthers() const {
  for (const auto& item : object_.items()) {
    if (known_.count(item.key()) != 0) continue;
    std::string names;
    for (const std::string& name : known_) names += (names.empty() ? "" : ", ") + name;
    FailWith(PathOf(item.key()), "wanted one of the keys " + names + ", got an unknown key");
  }
}

}  // namespace fla
