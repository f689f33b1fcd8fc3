// Between JSON and the values of chat templates.
#pragma once

#include <string>
#include <string_view>

#include "model/chat/value.h"

namespace fla::chat {

// Objects keep the order of their keys; of equal keys the last one's value counts, as in Python.
// Throws std::invalid_argument that says what is wrong: no JSON, nested deeper than 64, an integer
// beyond 64 bits (a template has no others), or text that is no UTF-8.
Value ParseJsonValue(std::string_view json);

struct JsonStyle {
  bool indented = false;  // one entry a line
  std::string indent;     // a level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};

// As Python's json.dumps. Throws Failure for a value that JSON has not.
std::string ToJson(const Value& value, const JsonStyle& style, Meter& meter);

// str() and repr().
std::string ToText(const Value& value, Meter& meter);
std::string Repr(const Value& value, Meter& meter);

}  // namespace fla::chat
