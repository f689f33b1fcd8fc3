#include "server/json_lines.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace fla {
namespace {

// Deeper values have no paths of their own: the config has none, and the paths of a hostile file
// would take memory with the square of its size.
constexpr size_t kMaxDepth = 16;

// An object or list that is open.
struct Open {
  bool is_object;
  std::string path;
  std::string key;    // of an object: the last key
  bool wants_key;     // of an object: the next string is a key
  size_t index = 0;   // of a list: the next element
  bool fresh = true;  // of a list: that element has not begun
};

// The index after a string's closing quote; `begin` is that of the opening one.
size_t EndOfString(std::string_view text, size_t begin) {
  size_t at = begin + 1;
  while (at < text.size() && text[at] != '"') at += text[at] == '\\' ? 2 : 1;
  return std::min(at + 1, text.size());
}

std::string PathOf(const Open& open) {
  std::string path = open.path;
  if (!open.is_object) return path.append("[").append(std::to_string(open.index)).append("]");
  if (!path.empty()) path += '.';
  return path.append(open.key);
}

}  // namespace

int LineAt(std::string_view text, size_t offset) {
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(offset, text.size()));
  return 1 + static_cast<int>(std::count(text.begin(), end, '\n'));
}

JsonLines::JsonLines(std::string_view text) {
  std::vector<Open> open;
  int line = 1;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '\n') ++line;
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ':') continue;
    if (c == ',') {
      open.back().wants_key = open.back().is_object;
      ++open.back().index;
      open.back().fresh = true;
      continue;
    }
    if (c == '}' || c == ']') {
      open.pop_back();
      continue;
    }
    const bool has_path = !open.empty() && open.size() <= kMaxDepth;
    if (has_path && !open.back().is_object && std::exchange(open.back().fresh, false)) {
      Add(PathOf(open.back()), line);
    }
    if (c == '"') {
      const size_t end = EndOfString(text, at);
      if (has_path && open.back().wants_key) {
        open.back().key = nlohmann::json::parse(text.substr(at, end - at)).get<std::string>();
        open.back().wants_key = false;
        Add(PathOf(open.back()), line);
      }
      at = end - 1;
    } else if (c == '{' || c == '[') {
      open.push_back({c == '{', has_path ? PathOf(open.back()) : "", "", c == '{'});
    }
  }
}

void JsonLines::Add(const std::string& path, int line) {
  // A key with a dot in it can have the path of another value; the config has no such keys.
  if (!lines_.emplace(path, line).second && doubled_.empty()) {
    doubled_ = path;
    lines_[path] = line;
  }
}

int JsonLines::LineOf(const std::string& path) const {
  std::string prefix = path;
  while (true) {
    const auto found = lines_.find(prefix);
    if (found != lines_.end()) return found->second;
    const size_t end = prefix.find_last_of(".[");
    if (end == std::string::npos) return 1;
    prefix.resize(end);
  }
}

}  // namespace fla
