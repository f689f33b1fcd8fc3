// What operators and subscripts of a template do, after Python's.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "model/chat/heap.h"

namespace fla::chat {

// + - * / // % **. Throws Failure for types that have no such operator.
Value Binary(Heap& heap, std::string_view op, const Value& a, const Value& b);
Value Negate(const Value& value);

// == != < <= > >=, `in` and `not in`.
bool Compare(Heap& heap, std::string_view op, const Value& a, const Value& b);

// `object[key]`, and `object.name`: they differ in what goes first where an object has an item and
// an attribute of one name. Undefined where it has neither.
Value GetItem(Heap& heap, const Value& object, const Value& key);
Value GetAttribute(Heap& heap, const Value& object, const std::string& name);
// `object[from:to:step]`; a bound that is not said is none.
Value GetSlice(Heap& heap, const Value& object, const Value& from, const Value& to,
               const Value& step);

// What a loop goes through. Throws Failure for what cannot be gone through.
std::shared_ptr<const Sequence> ItemsOf(Heap& heap, const Value& value);

}  // namespace fla::chat
