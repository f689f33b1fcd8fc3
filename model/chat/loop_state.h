// What a template knows as `loop` within a for statement.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "model/chat/value.h"

namespace fla::chat {

// Goes through the items of a sequence that a condition accepts. The condition is asked no sooner
// than an item is needed, as in Jinja: what the body does may change its answer.
struct LoopState {
  std::shared_ptr<const Sequence> items;
  std::function<bool(const Value&)> condition;  // empty: takes all; reset when the loop ends
  size_t next_place = 0;                        // in items
  std::optional<Value> ahead;                   // an item already looked at
  Value previous, current;
  int64_t index0 = -1;
  int depth0 = 0;
  std::optional<int64_t> length;

  // Moves on to the next item; false at the end.
  bool Advance();
  // The item after the current one; null where there is none.
  const Value* PeekNext();
  int64_t Length();
  int depth() const { return items->depth + 1; }

 private:
  bool Pull(Value* item);
};

// `loop.name`; undefined where a loop has no such thing.
Value LoopAttribute(LoopState& loop, const std::string& name);

}  // namespace fla::chat
