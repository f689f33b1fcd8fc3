// Makes the values of one rendering and counts them.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/chat/meter.h"
#include "model/chat/value.h"

namespace fla::chat {

// Thread safety: one thread at a time. Outlives every value that it has made.
class Heap {
 public:
  explicit Heap(const RenderLimits& limits) : meter_(limits) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  Meter& meter() { return meter_; }

  // These throw Failure where a limit is passed.
  Value NewText(std::string bytes, bool safe = false) {
    meter_.Handle(bytes.size());
    return Value(std::make_shared<const Text>(&meter_, std::move(bytes), safe));
  }
  Value NewSequence(Sequence::Flavor flavor, std::vector<Value> items) {
    meter_.Step(1 + static_cast<int64_t>(items.size()));
    return Value(std::make_shared<const Sequence>(&meter_, flavor, std::move(items)));
  }
  Value NewList(std::vector<Value> items) {
    return NewSequence(Sequence::Flavor::kList, std::move(items));
  }
  Value NewTuple(std::vector<Value> items) {
    return NewSequence(Sequence::Flavor::kTuple, std::move(items));
  }
  Value NewIterator(std::vector<Value> items) {
    auto iterator = std::make_shared<Iterator>();
    iterator->items =
        std::make_shared<const Sequence>(&meter_, Sequence::Flavor::kList, std::move(items));
    return Value(std::move(iterator));
  }
  Value NewDict(Dict::Entries entries) {
    meter_.Step(1 + static_cast<int64_t>(entries.size()));
    return Value(std::make_shared<const Dict>(&meter_, std::move(entries)));
  }
  Value NewCallable(Callable callable);
  // Namespaces live as long as the heap, so that none can hold itself.
  Namespace* NewNamespace() {
    meter_.Take(sizeof(Namespace) + 64);
    return &namespaces_.emplace_back();
  }
  // What an assignment to a namespace takes.
  void SetAttribute(Namespace& target, const std::string& name, Value value);

 private:
  Meter meter_;
  std::deque<Namespace> namespaces_;
};

}  // namespace fla::chat
