// Where the values of a JSON text stand, so that an error in a config file can name its line.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace fla {

// Thread safety: immutable after construction.
class JsonLines {
 public:
  // `text` must be valid JSON.
  explicit JsonLines(std::string_view text);

  // The line, counted from 1, of the key or list element at a path such as "models[0].slots"; for a
  // path that is not there, that of the nearest value around it.
  int LineOf(const std::string& path) const;

  // The path of the first key that stands twice in one object, of which a parser would silently
  // take one; empty if there is none. LineOf gives the second of the two.
  const std::string& doubled() const { return doubled_; }

 private:
  void Add(const std::string& path, int line);

  std::map<std::string, int> lines_;
  std::string doubled_;
};

// The line of the byte at `offset` of a text, counted from 1.
int LineAt(std::string_view text, size_t offset);

}  // namespace fla
