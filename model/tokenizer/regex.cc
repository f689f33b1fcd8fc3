#include "model/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdlib>
#include <new>
#include <stdexcept>

#include "model/tokenizer/unicode_versions.h"
#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;   // backtracking steps of one match
constexpr uint32_t kHeapLimitKib = 64 * 1024;  // of the matcher that runs without JIT

std::string ErrorText(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

bool LibraryKnowsUnicode16() {
  char version[64] = "";
  pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
  return std::atoi(version) >= 16;
}

// What a match writes to and its limits.
struct Matcher {
  Matcher() {
    if (data == nullptr || context == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  }
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data{
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context{
      pcre2_match_context_create(nullptr), pcre2_match_context_free};
};

}  // namespace

struct Regex::Code {
  explicit Code(const std::string& pattern) {
    int error = 0;
    size_t offset = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, nullptr);
    if (code == nullptr) throw std::runtime_error(ErrorText(error));
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT, the interpreter runs
  }
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  pcre2_code* code;
};

Regex::Regex(std::string_view oniguruma_pattern) : pattern_(oniguruma_pattern) {
  try {
    const std::string plain = PcreFromOniguruma(pattern_, false);
    const std::string newest = PcreFromOniguruma(pattern_, true);
    code_ = std::make_shared<const Code>(plain);
    if (newest != plain && !LibraryKnowsUnicode16()) {
      newest_code_ = std::make_shared<const Code>(newest);
    }
  } catch (const std::runtime_error& e) {
    throw std::runtime_error("regular expression '" + pattern_ + "': " + e.what());
  }
}

void Regex::ForEachMatch(std::string_view text, const std::function<void(Span)>& found) const {
  const bool newest = newest_code_ != nullptr && unicode::HasCharactersAfterUnicode14(text);
  const pcre2_code* code = (newest ? newest_code_ : code_)->code;
  thread_local const Matcher matcher;
  const size_t* const group = pcre2_get_ovector_pointer(matcher.data.get());

  size_t last_end = 0;
  bool matched_before = false;
  for (size_t start = 0; start <= text.size();) {
    const auto match = [&](uint32_t options) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                         PCRE2_NO_UTF_CHECK | options, matcher.data.get(), matcher.context.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0) {
      throw std::runtime_error("regular expression '" + pattern_ + "': " + ErrorText(result));
    }
    const Span span{group[0], group[1]};
    if (span.begin > span.end) return;  // \K within a lookahead
    if (span.begin == span.end && matched_before && span.end == last_end) {
      start += start < text.size() ? unicode::CharacterBytes(text[start]) : 1;
      continue;
    }
    start = last_end = span.end;
    matched_before = true;
    found(span);
  }
}

}  // namespace fla::tokenizer
