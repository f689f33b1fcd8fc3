#include "model/chat/operators.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "model/chat/builtins.h"
#include "model/chat/json.h"
#include "model/chat/loop_state.h"
#include "model/chat/text.h"

namespace fla::chat {
namespace {

[[noreturn]] void FailTypes(std::string_view op, const Value& a, const Value& b) {
  if (a.is_undefined()) FailUndefined(a);
  if (b.is_undefined()) FailUndefined(b);
  throw Failure("'" + std::string(op) + "': wanted types that go together, got " + a.type_name() +
                " and " + b.type_name());
}

[[noreturn]] void FailOverflow() { throw Failure("an integer beyond 64 bits"); }

int64_t FloorDivide(int64_t a, int64_t b) {
  if (a == INT64_MIN && b == -1) FailOverflow();
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

int64_t Power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) FailOverflow();
    if (result == 0 || (result == 1 && base == 1)) break;
    if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  }
  return result;
}

Value Arithmetic(std::string_view op, const Value& a, const Value& b) {
  const bool divides = op == "/" || op == "//" || op == "%";
  if (divides && b.number() == 0) throw Failure("division by zero");
  if (a.is_integral() && b.is_integral() && op != "/") {
    const int64_t x = a.integer(), y = b.integer();
    int64_t result = 0;
    const bool overflow = op == "+"   ? __builtin_add_overflow(x, y, &result)
                          : op == "-" ? __builtin_sub_overflow(x, y, &result)
                          : op == "*" ? __builtin_mul_overflow(x, y, &result)
                                      : false;
    if (overflow) FailOverflow();
    if (op == "+" || op == "-" || op == "*") return Value(result);
    if (op == "//") return Value(FloorDivide(x, y));
    if (op == "%") return Value(y == -1 ? int64_t{0} : x - FloorDivide(x, y) * y);
    if (y >= 0) return Value(Power(x, y));
  }
  const double x = a.number(), y = b.number();
  if (op == "+") return Value(x + y);
  if (op == "-") return Value(x - y);
  if (op == "*") return Value(x * y);
  if (op == "/") return Value(x / y);
  if (op == "//") return Value(std::floor(x / y));
  if (op == "%") {
    const double rest = std::fmod(x, y);
    return Value(rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest);
  }
  return Value(std::pow(x, y));
}

// What Jinja's Markup does with text that is added to it.
std::string Escaped(const Text& text) {
  if (text.safe) return text.bytes;
  std::string out;
  for (const char c : text.bytes) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Value AddTexts(Heap& heap, const Text& a, const Text& b) {
  heap.meter().CheckRoom(a.bytes.size() + b.bytes.size());
  if (a.safe || b.safe) return heap.NewText(Escaped(a) + Escaped(b), true);
  return heap.NewText(a.bytes + b.bytes);
}

Value Repeat(Heap& heap, const Value& value, int64_t times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  const size_t bytes = value.text() != nullptr ? value.text()->bytes.size()
                                               : value.sequence()->items.size() * sizeof(Value);
  size_t total = 0;
  if (__builtin_mul_overflow(bytes, count, &total)) total = SIZE_MAX;
  heap.meter().CheckRoom(total);
  heap.meter().Handle(total);
  if (bytes == 0 || count == 0) {
    return value.text() != nullptr ? heap.NewText("")
                                   : heap.NewSequence(value.sequence()->flavor, {});
  }
  if (const Text* text = value.text()) {
    std::string out;
    out.reserve(total);
    for (size_t i = 0; i < count; ++i) out += text->bytes;
    return heap.NewText(std::move(out));
  }
  std::vector<Value> items;
  items.reserve(count * value.sequence()->items.size());
  for (size_t i = 0; i < count; ++i) {
    items.insert(items.end(), value.sequence()->items.begin(), value.sequence()->items.end());
  }
  return heap.NewSequence(value.sequence()->flavor, std::move(items));
}

bool IsList(const Value& value) {
  return value.sequence() != nullptr && value.sequence()->flavor != Sequence::Flavor::kView;
}

Value AddSequences(Heap& heap, const Sequence& a, const Sequence& b) {
  heap.meter().CheckRoom((a.items.size() + b.items.size()) * sizeof(Value));
  std::vector<Value> items = a.items;
  items.insert(items.end(), b.items.begin(), b.items.end());
  return heap.NewSequence(a.flavor, std::move(items));
}

bool Contains(Heap& heap, const Value& container, const Value& value) {
  if (const Text* text = container.text()) {
    if (value.text() == nullptr) FailTypes("in", value, container);
    heap.meter().Handle(text->bytes.size());
    return Find(text->bytes, value.text()->bytes) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) return dict->Find(value) != nullptr;
  const auto items = ItemsOf(heap, container);
  return std::any_of(items->items.begin(), items->items.end(),
                     [&](const Value& item) { return Equal(item, value, heap.meter()); });
}

// The index of an item counted from the front, as one from the end may be given; -1 for none.
int64_t Place(int64_t index, size_t size) {
  const auto count = static_cast<int64_t>(size);
  if (index < 0) index += count;
  return index >= 0 && index < count ? index : -1;
}

Value CharacterAt(Heap& heap, const Text& text, int64_t index) {
  heap.meter().Handle(text.bytes.size());
  const int64_t place = Place(index, CodePointCount(text.bytes));
  if (place < 0) return Value();
  const size_t begin = ByteOfIndex(text.bytes, static_cast<size_t>(place));
  const size_t bytes = ByteOfIndex(std::string_view{text.bytes}.substr(begin), 1);
  return heap.NewText(text.bytes.substr(begin, bytes));
}

// object[key] without attributes; undefined where there is none.
Value FindItem(Heap& heap, const Value& object, const Value& key) {
  heap.meter().Step();
  if (const Dict* dict = object.dict()) {
    if (key.text() == nullptr) heap.meter().Step(static_cast<int64_t>(dict->entries.size()));
    const Value* item = dict->Find(key);
    return item == nullptr ? Value() : *item;
  }
  if (!key.is_integral()) return Value();
  if (const Text* text = object.text()) return CharacterAt(heap, *text, key.integer());
  if (!IsList(object)) return Value();
  const int64_t place = Place(key.integer(), object.sequence()->items.size());
  return place < 0 ? Value() : object.sequence()->items[static_cast<size_t>(place)];
}

// object.name without items; undefined where there is none.
Value FindAttribute(Heap& heap, const Value& object, const std::string& name) {
  if (const Namespace* held = object.name_space()) {
    const Value* value = held->Find(name);
    return value == nullptr ? Value() : *value;
  }
  if (LoopState* loop = object.loop()) {
    if (name != "cycle") return LoopAttribute(*loop, name);
  }
  if (!HasMethod(object, name)) return Value();
  Callable method;
  method.name = name;
  method.self = object;
  method.is_method = true;
  return heap.NewCallable(std::move(method));
}

std::string Shown(const Value& key, Heap& heap) {
  return key.text() != nullptr || key.is_number() ? ToText(key, heap.meter()) : key.type_name();
}

}  // namespace

Value Heap::NewCallable(Callable callable) {
  callable.depth = callable.self.depth() + 1;
  if (callable.depth > kMaxValueDepth) {
    throw Failure("values nested deeper than " + std::to_string(kMaxValueDepth));
  }
  return Value(std::make_shared<const Callable>(std::move(callable)));
}

void Heap::SetAttribute(Namespace& target, const std::string& name, Value value) {
  meter_.Step(1 + static_cast<int64_t>(target.attributes.size()));
  if (name.starts_with('_')) {
    throw Failure("a namespace's attribute: wanted a name that does not begin with _, got " + name);
  }
  if (target.Find(name) == nullptr) meter_.Take(sizeof(Value) + name.size() + 64);
  target.Set(name, std::move(value));
}

Value Binary(Heap& heap, std::string_view op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return Arithmetic(op, a, b);
  if (op == "+" && a.text() && b.text()) return AddTexts(heap, *a.text(), *b.text());
  if (op == "+" && IsList(a) && IsList(b) && a.sequence()->flavor == b.sequence()->flavor) {
    return AddSequences(heap, *a.sequence(), *b.sequence());
  }
  if (op == "*" && b.is_integral() && (a.text() || IsList(a))) return Repeat(heap, a, b.integer());
  if (op == "*" && a.is_integral() && (b.text() || IsList(b))) return Repeat(heap, b, a.integer());
  if (op == "%" && a.text()) return FormatPercent(heap, a.text()->bytes, b);
  FailTypes(op, a, b);
}

Value Negate(const Value& value) {
  if (value.is_integral()) {
    if (value.integer() == INT64_MIN) FailOverflow();
    return Value(-value.integer());
  }
  if (const double* number = value.If<double>()) return Value(-*number);
  if (value.is_undefined()) FailUndefined(value);
  throw Failure(std::string("'-': wanted a number, got ") + value.type_name());
}

bool Compare(Heap& heap, std::string_view op, const Value& a, const Value& b) {
  Meter& meter = heap.meter();
  if (op == "==") return Equal(a, b, meter);
  if (op == "!=") return !Equal(a, b, meter);
  if (op == "<") return Less(a, b, meter);
  if (op == ">") return Less(b, a, meter);
  if (op == "<=") return Less(a, b, meter) || Equal(a, b, meter);
  if (op == ">=") return Less(b, a, meter) || Equal(a, b, meter);
  return Contains(heap, b, a) == (op == "in");
}

Value GetItem(Heap& heap, const Value& object, const Value& key) {
  if (object.is_undefined()) FailUndefined(object);
  Value item = FindItem(heap, object, key);
  if (!item.is_undefined()) return item;
  if (const Text* name = key.text()) {
    item = FindAttribute(heap, object, name->bytes);
    if (!item.is_undefined()) return item;
  }
  return UndefinedNamed(Shown(key, heap));
}

Value GetAttribute(Heap& heap, const Value& object, const std::string& name) {
  if (object.is_undefined()) FailUndefined(object);
  Value value = FindAttribute(heap, object, name);
  if (!value.is_undefined()) return value;
  if (const Dict* dict = object.dict()) {
    if (const Value* item = dict->Find(name)) return *item;
  }
  return UndefinedNamed(name);
}

Value GetSlice(Heap& heap, const Value& object, const Value& from, const Value& to,
               const Value& step) {
  const Text* text = object.text();
  if (object.is_undefined()) FailUndefined(object);
  if (text == nullptr && !IsList(object)) {
    throw Failure(std::string("a slice: wanted text or a list, got ") + object.type_name());
  }
  const auto bound = [](const Value& value) -> std::optional<int64_t> {
    if (value.is_none()) return std::nullopt;
    if (value.is_undefined()) FailUndefined(value);
    if (!value.is_integral()) {
      throw Failure(std::string("a slice's bound: wanted an integer, got ") + value.type_name());
    }
    return value.integer();
  };
  const int64_t stride = bound(step).value_or(1);
  if (stride == 0) throw Failure("a slice's step: wanted another integer than 0, got 0");
  if (text != nullptr) heap.meter().Handle(text->bytes.size());
  const auto size = static_cast<int64_t>(text != nullptr ? CodePointCount(text->bytes)
                                                         : object.sequence()->items.size());
  // As Python's slice.indices.
  const int64_t lowest = stride < 0 ? -1 : 0, highest = stride < 0 ? size - 1 : size;
  const auto place = [&](const Value& value, int64_t fallback) {
    const std::optional<int64_t> index = bound(value);
    if (!index) return fallback;
    return std::clamp(*index < 0 ? std::max(*index, -size - 1) + size : *index, lowest, highest);
  };
  const int64_t begin = place(from, stride < 0 ? highest : lowest);
  const int64_t end = place(to, stride < 0 ? lowest : highest);
  if (text != nullptr && stride == 1) {
    if (begin >= end) return heap.NewText("");
    const size_t first = ByteOfIndex(text->bytes, static_cast<size_t>(begin));
    const size_t bytes =
        ByteOfIndex(std::string_view{text->bytes}.substr(first), static_cast<size_t>(end - begin));
    return heap.NewText(text->bytes.substr(first, bytes));
  }
  const std::shared_ptr<const Sequence> items = ItemsOf(heap, object);
  std::vector<Value> taken;
  for (int64_t i = begin; stride > 0 ? i < end : i > end;) {
    taken.push_back(items->items[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (text == nullptr) return heap.NewSequence(items->flavor, std::move(taken));
  std::string joined;
  for (const Value& character : taken) joined += character.text()->bytes;
  return heap.NewText(std::move(joined));
}

std::shared_ptr<const Sequence> ItemsOf(Heap& heap, const Value& value) {
  if (const auto* held = value.If<std::shared_ptr<const Sequence>>()) return *held;
  if (Iterator* iterator = value.iterator()) {
    const size_t next = std::exchange(iterator->next, iterator->items->items.size());
    if (next == 0) return iterator->items;
    const auto& items = iterator->items->items;
    return std::make_shared<const Sequence>(
        &heap.meter(), Sequence::Flavor::kList,
        std::vector<Value>(items.begin() + static_cast<std::ptrdiff_t>(next), items.end()));
  }
  std::vector<Value> items;
  if (const Text* text = value.text()) {
    heap.meter().CheckRoom(text->bytes.size());
    heap.meter().Handle(text->bytes.size());
    for (std::string& character : CodePoints(text->bytes)) {
      items.push_back(heap.NewText(std::move(character)));
    }
  } else if (const Dict* dict = value.dict()) {
    heap.meter().Step(static_cast<int64_t>(dict->entries.size()));
    for (const auto& entry : dict->entries) items.push_back(entry.first);
  } else if (!value.is_undefined()) {
    throw Failure(std::string("wanted something to go through, got ") + value.type_name());
  }
  return std::make_shared<const Sequence>(&heap.meter(), Sequence::Flavor::kList, std::move(items));
}

}  // namespace fla::chat
