// The JSON header of a safetensors file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fla {

struct HeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> data_offsets;  // as written: not yet checked
};

// The tensors of a header in the order in which it has them; __metadata__ is passed over. Reads as
// a stream, so that memory is bounded by the tensors there are, whatever else the text holds.
// Throws std::runtime_error, which begins with `file`, for bad JSON, for a key that stands twice,
// and for anything but {name: {"dtype": text, "shape": [integers], "data_offsets": [integers]}}.
std::vector<HeaderEntry> ParseSafetensorsHeader(const std::string& file, std::string_view text);

}  // namespace fla
