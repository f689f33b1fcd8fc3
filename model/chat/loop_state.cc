#include "model/chat/loop_state.h"

#include <utility>

namespace fla::chat {

bool LoopState::Pull(Value* item) {
  while (next_place < items->items.size()) {
    const Value& candidate = items->items[next_place++];
    if (condition && !condition(candidate)) continue;
    *item = candidate;
    return true;
  }
  return false;
}

const Value* LoopState::PeekNext() {
  Value item;
  if (!ahead && Pull(&item)) ahead = std::move(item);
  return ahead ? &*ahead : nullptr;
}

bool LoopState::Advance() {
  if (PeekNext() == nullptr) return false;
  previous = std::move(current);
  current = *std::exchange(ahead, std::nullopt);
  ++index0;
  return true;
}

int64_t LoopState::Length() {
  if (length) return *length;
  if (!condition) return *(length = static_cast<int64_t>(items->items.size()));
  // As Jinja does where the number of items is asked for: all conditions are asked now.
  std::vector<Value> rest;
  if (ahead) rest.push_back(*ahead);
  Value item;
  while (Pull(&item)) rest.push_back(std::move(item));
  length = index0 + 1 + static_cast<int64_t>(rest.size());
  items = std::make_shared<const Sequence>(nullptr, Sequence::Flavor::kList, std::move(rest));
  next_place = 0;
  condition = nullptr;
  ahead.reset();
  return *length;
}

Value LoopAttribute(LoopState& loop, const std::string& name) {
  if (name == "index0") return Value(loop.index0);
  if (name == "index") return Value(loop.index0 + 1);
  if (name == "first") return Value(loop.index0 == 0);
  if (name == "last") return Value(loop.PeekNext() == nullptr);
  if (name == "length") return Value(loop.Length());
  if (name == "revindex") return Value(loop.Length() - loop.index0);
  if (name == "revindex0") return Value(loop.Length() - loop.index0 - 1);
  if (name == "previtem") return loop.index0 == 0 ? UndefinedNamed(name) : loop.previous;
  if (name == "nextitem") {
    const Value* next = loop.PeekNext();
    return next == nullptr ? UndefinedNamed(name) : *next;
  }
  if (name == "depth") return Value(int64_t{loop.depth0} + 1);
  if (name == "depth0") return Value(int64_t{loop.depth0});
  return UndefinedNamed(name);
}

}  // namespace fla::chat
