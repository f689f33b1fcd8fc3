// Regular expressions as Hugging Face's tokenizers write them: Oniguruma's syntax, run by PCRE2.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace fla::tokenizer {

// Bytes [begin, end) of a text.
struct Span {
  size_t begin, end;
};

// The PCRE2 pattern (UTF and UCP on, MULTILINE) that matches what Oniguruma's Ruby syntax matches
// with `pattern`. With `newest_unicode` the properties also hold the characters that came after
// Unicode 14. Throws std::runtime_error for what has no counterpart.
std::string PcreFromOniguruma(std::string_view pattern, bool newest_unicode);

// A compiled pattern.
//
// Thread safety: const methods may be called from any number of threads.
class Regex {
 public:
  // Throws std::runtime_error with the pattern and what is wrong in it.
  explicit Regex(std::string_view oniguruma_pattern);

  // Calls `found` for each match in `text` (valid UTF-8), leftmost first and none overlapping; an
  // empty match right after the one before is none. Throws std::runtime_error when the pattern
  // backtracks without end.
  void ForEachMatch(std::string_view text, const std::function<void(Span)>& found) const;

 private:
  struct Code;
  std::string pattern_;
  std::shared_ptr<const Code> code_;         // knows Unicode as the PCRE2 library does
  std::shared_ptr<const Code> newest_code_;  // null where the library is new enough
};

}  // namespace fla::tokenizer
