#include "model/json_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <stdexcept>
#include <vector>

namespace fla {
namespace {

constexpr int kMaxNesting = 64;

}  // namespace

nlohmann::json ParseJson(const std::string& file, std::string_view text) {
  using Json = nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const Json::parser_callback_t check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxNesting) {
      throw std::runtime_error(file + ": nested deeper than " + std::to_string(kMaxNesting));
    }
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      throw std::runtime_error(file + ": key " + parsed.dump() + " stands twice");
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::exception& error) {
    throw std::runtime_error(file + ": wanted JSON: " + error.what());
  }
}

nlohmann::json ReadJsonFile(const std::filesystem::path& path, uintmax_t max_bytes) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) throw std::runtime_error(path.string() + ": cannot read: " + error.message());
  if (size > max_bytes) {
    throw std::runtime_error(path.string() + ": wanted at most " + std::to_string(max_bytes) +
                             " bytes, got " + std::to_string(size));
  }
  std::ifstream stream(path, std::ios::binary);
  std::string text(size, '\0');
  if (!stream.read(text.data(), static_cast<std::streamsize>(size))) {
    throw std::runtime_error(path.string() + ": cannot read: " + std::strerror(errno));
  }
  return ParseJson(path.string(), text);
}

}  // namespace fla
