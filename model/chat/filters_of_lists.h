// The filters of what can be gone through; parts of builtins.h.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "model/chat/builtins.h"

namespace fla::chat {

const std::map<std::string_view, Filter>& FiltersOfLists();

// The length as Python's len() has it. Throws Failure for what has none.
int64_t LengthOf(Heap& heap, const Value& value);

// str() of all items with `separator` between them.
Value Join(Heap& heap, const std::vector<Value>& items, const std::string& separator);

// Replaces within the bounds of the rendering.
std::string ReplaceMetered(Heap& heap, const std::string& text, const std::string& from,
                           const std::string& to, int64_t most);

}  // namespace fla::chat
