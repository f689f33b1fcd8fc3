#include "model/chat/filters_of_lists.h"

#include <algorithm>
#include <optional>

#include "model/chat/json.h"
#include "model/chat/loop_state.h"
#include "model/chat/operators.h"
#include "model/chat/text.h"

namespace fla::chat {
namespace {

bool IsDigits(const std::string& part) {
  return !part.empty() && part.size() < 10 &&
         part.find_first_not_of("0123456789") == std::string::npos;
}

// Looks up "a.b.0" in values.
class AttributePath {
 public:
  explicit AttributePath(const Value* path) {
    if (path == nullptr || path->is_none()) return;
    if (const Text* text = path->text()) {
      for (const std::string_view part : Split(text->bytes, ".", -1)) {
        const std::string name(part);
        keys_.push_back(IsDigits(name) ? Value(int64_t{std::stoi(name)}) : MakeText(name));
      }
    } else {
      keys_.push_back(*path);
    }
  }

  Value Of(Heap& heap, Value value) const {
    for (const Value& key : keys_) value = GetItem(heap, value, key);
    return value;
  }

 private:
  std::vector<Value> keys_;
};

// Sorting and the like do not tell upper from lower case, unless they are told to.
Value Folded(Heap& heap, Value value, bool case_sensitive) {
  if (case_sensitive || value.text() == nullptr) return value;
  heap.meter().Handle(value.text()->bytes.size());
  return heap.NewText(Lower(value.text()->bytes));
}

Value LengthFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("length", arguments, {});
  return Value(LengthOf(heap, value));
}

Value FirstFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("first", arguments, {});
  if (Iterator* iterator = value.iterator()) {
    if (iterator->next >= iterator->items->items.size()) return UndefinedNamed("first");
    return iterator->items->items[iterator->next++];
  }
  const auto items = ItemsOf(heap, value);
  return items->items.empty() ? UndefinedNamed("first") : items->items.front();
}

Value LastFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("last", arguments, {});
  if (value.iterator()) throw Failure("last: wanted a list, got a generator: put |list before it");
  const auto items = ItemsOf(heap, value);
  return items->items.empty() ? UndefinedNamed("last") : items->items.back();
}

Value ListFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("list", arguments, {});
  return heap.NewList(ItemsOf(heap, value)->items);
}

Value JoinFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("join", arguments, {"d", "attribute"});
  const AttributePath path(bound.Find(1));
  std::vector<Value> items;
  const auto source = ItemsOf(heap, value);  // lives as long as the loop
  for (const Value& item : source->items) items.push_back(path.Of(heap, item));
  const std::string separator =
      bound.Find(0) == nullptr ? "" : ToText(*bound.Find(0), heap.meter());
  return Join(heap, items, separator);
}

Value ReverseFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("reverse", arguments, {});
  if (value.text() != nullptr) {
    return GetSlice(heap, value, Value(None{}), Value(None{}), Value(int64_t{-1}));
  }
  std::vector<Value> items = ItemsOf(heap, value)->items;
  std::reverse(items.begin(), items.end());
  return heap.NewIterator(std::move(items));
}

Value ItemsFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("items", arguments, {});
  std::vector<Value> pairs;
  if (const Dict* dict = value.dict()) {
    for (const auto& [key, held] : dict->entries) pairs.push_back(heap.NewTuple({key, held}));
  } else if (!value.is_undefined()) {
    throw Failure(std::string("items: wanted a dict, got ") + value.type_name());
  }
  return heap.NewIterator(std::move(pairs));
}

// Sorts by keys. Throws Failure where two cannot be ordered.
std::vector<Value> Sorted(Heap& heap, std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? Less(b.first, a.first, heap.meter()) : Less(a.first, b.first, heap.meter());
  });
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (auto& [_, item] : keyed) items.push_back(std::move(item));
  return items;
}

Value SortFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const AttributePath path(bound.Find(2));
  std::vector<std::pair<Value, Value>> keyed;
  const auto source = ItemsOf(heap, value);
  for (const Value& item : source->items) {
    keyed.emplace_back(Folded(heap, path.Of(heap, item), bound.Bool(1, false)), item);
  }
  return heap.NewList(Sorted(heap, std::move(keyed), bound.Bool(0, false)));
}

Value DictSortFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const Dict* dict = value.dict();
  if (dict == nullptr) {
    throw Failure(std::string("dictsort: wanted a dict, got ") + value.type_name());
  }
  const std::string by = bound.Find(1) == nullptr ? "key" : bound.Text(1);
  if (by != "key" && by != "value") {
    throw Failure("dictsort: the argument 'by': wanted key or value, got " + by);
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, held] : dict->entries) {
    keyed.emplace_back(Folded(heap, by == "key" ? key : held, bound.Bool(0, false)),
                       heap.NewTuple({key, held}));
  }
  return heap.NewList(Sorted(heap, std::move(keyed), bound.Bool(2, false)));
}

Value UniqueFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("unique", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(bound.Find(1));
  std::vector<Value> keys, items;
  const auto source = ItemsOf(heap, value);
  for (const Value& item : source->items) {
    Value key = Folded(heap, path.Of(heap, item), bound.Bool(0, false));
    if (std::any_of(keys.begin(), keys.end(),
                    [&](const Value& known) { return Equal(known, key, heap.meter()); })) {
      continue;
    }
    keys.push_back(std::move(key));
    items.push_back(item);
  }
  return heap.NewIterator(std::move(items));
}

// The least or the greatest, of equal ones the first.
template <bool greatest>
Value ExtremeFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound(greatest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const AttributePath path(bound.Find(1));
  Value best = UndefinedNamed(greatest ? "max" : "min"), best_key;
  bool first = true;
  const auto source = ItemsOf(heap, value);
  for (const Value& item : source->items) {
    Value key = Folded(heap, path.Of(heap, item), bound.Bool(0, false));
    const bool better =
        first || (greatest ? Less(best_key, key, heap.meter()) : Less(key, best_key, heap.meter()));
    first = false;
    if (!better) continue;
    best = item;
    best_key = std::move(key);
  }
  return best;
}

Value SumFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("sum", arguments, {"attribute", "start"});
  const AttributePath path(bound.Find(0));
  Value sum = bound.Find(1) == nullptr ? Value(int64_t{0}) : *bound.Find(1);
  const auto source = ItemsOf(heap, value);
  for (const Value& item : source->items) {
    sum = Binary(heap, "+", sum, path.Of(heap, item));
  }
  return sum;
}

Value MapFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  std::vector<Value> out;
  const auto items = ItemsOf(heap, value);
  if (arguments.positional.empty()) {
    const BoundArguments bound("map", arguments, {"attribute", "default"});
    const AttributePath path(&bound.Required(0));
    for (const Value& item : items->items) {
      Value found = path.Of(heap, item);
      if (found.is_undefined() && bound.IsGiven(1)) found = *bound.Find(1);
      out.push_back(std::move(found));
    }
    return heap.NewIterator(std::move(out));
  }
  const std::string name = ToText(arguments.positional[0], heap.meter());
  const Filter* filter = FindFilter(name);
  if (filter == nullptr) throw Failure("the filter '" + name + "' is not supported");
  const Arguments rest = {{arguments.positional.begin() + 1, arguments.positional.end()},
                          arguments.named};
  for (const Value& item : items->items) out.push_back((*filter)(heap, item, rest));
  return heap.NewIterator(std::move(out));
}

// select, reject, selectattr and rejectattr.
template <bool wanted, bool of_attribute>
Value SelectFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  size_t used = 0;
  std::optional<AttributePath> path;
  if (of_attribute) {
    if (arguments.positional.empty()) throw Failure("selectattr: wanted an attribute, got none");
    path.emplace(&arguments.positional[used++]);
  }
  const Test* test = nullptr;
  if (used < arguments.positional.size()) {
    const std::string name = ToText(arguments.positional[used++], heap.meter());
    test = FindTest(name);
    if (test == nullptr) throw Failure("the test '" + name + "' is not supported");
  }
  const Arguments rest = {{arguments.positional.begin() + static_cast<std::ptrdiff_t>(used),
                           arguments.positional.end()},
                          arguments.named};
  std::vector<Value> out;
  const auto source = ItemsOf(heap, value);
  for (const Value& item : source->items) {
    heap.meter().Step();
    const Value tested = path ? path->Of(heap, item) : item;
    const bool passes = test == nullptr ? IsTrue(tested) : (*test)(heap, tested, rest);
    if (passes == wanted) out.push_back(item);
  }
  return heap.NewIterator(std::move(out));
}

}  // namespace

int64_t LengthOf(Heap& heap, const Value& value) {
  if (const Text* text = value.text()) {
    heap.meter().Handle(text->bytes.size());
    return static_cast<int64_t>(CodePointCount(text->bytes));
  }
  if (const Sequence* sequence = value.sequence()) {
    return static_cast<int64_t>(sequence->items.size());
  }
  if (const Dict* dict = value.dict()) return static_cast<int64_t>(dict->entries.size());
  if (LoopState* loop = value.loop()) return loop->Length();
  if (value.is_undefined()) return 0;
  throw Failure(std::string("length: wanted text, a list or a dict, got ") + value.type_name() +
                (value.iterator() ? ": put |list before it" : ""));
}

Value Join(Heap& heap, const std::vector<Value>& items, const std::string& separator) {
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += ToText(items[i], heap.meter());
    heap.meter().Handle(separator.size());
    heap.meter().CheckRoom(out.size());
  }
  return heap.NewText(std::move(out));
}

const std::map<std::string_view, Filter>& FiltersOfLists() {
  static const std::map<std::string_view, Filter> kFilters = {
      {"count", LengthFilter},
      {"dictsort", DictSortFilter},
      {"first", FirstFilter},
      {"items", ItemsFilter},
      {"join", JoinFilter},
      {"last", LastFilter},
      {"length", LengthFilter},
      {"list", ListFilter},
      {"map", MapFilter},
      {"max", ExtremeFilter<true>},
      {"min", ExtremeFilter<false>},
      {"reject", SelectFilter<false, false>},
      {"rejectattr", SelectFilter<false, true>},
      {"reverse", ReverseFilter},
      {"select", SelectFilter<true, false>},
      {"selectattr", SelectFilter<true, true>},
      {"sort", SortFilter},
      {"sum", SumFilter},
      {"unique", UniqueFilter},
  };
  return kFilters;
}

}  // namespace fla::chat
