// Finds stop strings in a text that comes in pieces.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fla {

// Passes text through, but holds back what may be the beginning of a stop string until it is clear
// that it is not. The result does not depend on how the text is cut into pieces: the stop string
// that is complete first wins, of those that end at the same place the longest.
class StopMatcher {
 public:
  // `stop_strings` must outlive the matcher; none is empty.
  StopMatcher(const std::vector<std::string>& stop_strings, bool include_stop_string)
      : stop_strings_(stop_strings), include_stop_string_(include_stop_string) {}

  // Appends text. Returns the text that is now certain to stand before any stop string. With
  // `apply` false, a stop string that becomes complete in this piece is ordinary text.
  // Once matched, nothing more comes out.
  std::string Append(std::string_view text, bool apply = true);

  // The text that is still held back: the end of the text if no stop string came.
  std::string Finish();

  // The stop string that was hit, or null.
  const std::string* matched() const { return matched_; }

 private:
  // The length of the longest end of held_ that is the beginning of a stop string.
  size_t PossibleStart() const;

  const std::vector<std::string>& stop_strings_;
  const bool include_stop_string_;
  std::string held_;
  const std::string* matched_ = nullptr;
};

}  // namespace fla
