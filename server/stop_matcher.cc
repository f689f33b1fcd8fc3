#include "server/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace fla {

std::string StopMatcher::Append(std::string_view text, bool apply) {
  if (matched_ != nullptr) return "";
  const size_t old_size = held_.size();
  held_ += text;
  if (apply) {
    size_t first_end = std::string::npos;
    for (const std::string& stop : stop_strings_) {
      // Only what ends in the new text counts: an older match was not to be applied.
      const size_t from = old_size + 1 > stop.size() ? old_size + 1 - stop.size() : 0;
      const size_t begin = held_.find(stop, from);
      if (begin == std::string::npos) continue;
      const size_t end = begin + stop.size();
      if (end < first_end || (end == first_end && stop.size() > matched_->size())) {
        first_end = end;
        matched_ = &stop;
      }
    }
    if (matched_ != nullptr) {
      held_.resize(include_stop_string_ ? first_end : first_end - matched_->size());
      return std::exchange(held_, {});
    }
  }
  std::string certain = held_.substr(0, held_.size() - PossibleStart());
  held_.erase(0, certain.size());
  return certain;
}

std::string StopMatcher::Finish() { return std::exchange(held_, {}); }

size_t StopMatcher::PossibleStart() const {
  const std::string_view held = held_;
  size_t longest = 0;
  for (const std::string_view stop : stop_strings_) {
    for (size_t size = std::min(stop.size() - 1, held.size()); size > longest; --size) {
      if (held.ends_with(stop.substr(0, size))) longest = size;
    }
  }
  return longest;
}

}  // namespace fla
