#include "model/chat/value.h"

#include <algorithm>
#include <cstring>

#include "model/chat/loop_state.h"
#include "model/chat/meter.h"

namespace fla::chat {
namespace {

int Nested(int depth) {
  if (depth >= kMaxValueDepth) {
    throw Failure("values nested deeper than " + std::to_string(kMaxValueDepth));
  }
  return depth + 1;
}

int DepthOf(const std::vector<Value>& items) {
  int deepest = 0;
  for (const Value& item : items) deepest = std::max(deepest, item.depth());
  return Nested(deepest);
}

// An integer beyond 2^53 and a double are compared as Python does: exactly.
int CompareNumbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    const int64_t x = a.integer(), y = b.integer();
    return x < y ? -1 : x > y ? 1 : 0;
  }
  // 64 bits of mantissa hold both.
  const long double x = a.is_integral() ? static_cast<long double>(a.integer()) : a.number();
  const long double y = b.is_integral() ? static_cast<long double>(b.integer()) : b.number();
  return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;  // 2: a NaN
}

bool EqualItems(const std::vector<Value>& a, const std::vector<Value>& b, Meter& meter) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](const Value& x, const Value& y) { return Equal(x, y, meter); });
}

bool EqualDicts(const Dict& a, const Dict& b, Meter& meter) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::all_of(a.entries.begin(), a.entries.end(), [&](const auto& entry) {
    meter.Step(entry.first.text() == nullptr ? static_cast<int64_t>(b.entries.size()) : 1);
    const Value* other = b.Find(entry.first);
    return other != nullptr && Equal(entry.second, *other, meter);
  });
}

}  // namespace

void Meter::FailSteps() const {
  throw Failure("takes more than " + std::to_string(limits_.max_steps) + " steps");
}

void Meter::FailMemory() const {
  throw Failure("takes more than " + std::to_string(limits_.max_memory_bytes) + " bytes of memory");
}

Metered::Metered(Meter* meter, size_t bytes) : meter_(meter), bytes_(bytes) {
  if (meter_ != nullptr) meter_->Take(bytes_);
}

Metered::~Metered() {
  if (meter_ != nullptr) meter_->Give(bytes_);
}

Sequence::Sequence(Meter* meter, Flavor kind, std::vector<Value> values)
    : Metered(meter, 64 + values.size() * sizeof(Value)),
      flavor(kind),
      items(std::move(values)),
      depth(DepthOf(items)) {}

Dict::Dict(Meter* meter, Entries pairs)
    : Metered(meter, 64 + pairs.size() * (2 * sizeof(Value) + 96)), depth(0) {
  for (auto& [key, value] : pairs) {
    if (key.text() == nullptr && !key.is_number() && !key.is_none()) {
      throw Failure(std::string("a dict's key: wanted text or a number, got ") + key.type_name());
    }
    depth = std::max(depth, value.depth());
    const size_t place = PlaceOf(key);
    if (place < entries.size()) {
      entries[place].second = std::move(value);
      continue;
    }
    if (const Text* text = key.text()) index_.emplace(text->bytes, place);
    entries.emplace_back(std::move(key), std::move(value));
  }
  depth = Nested(depth);
}

size_t Dict::PlaceOf(const Value& key) const {
  if (const Text* text = key.text()) {
    const auto it = index_.find(text->bytes);
    return it == index_.end() ? entries.size() : it->second;
  }
  const auto it = std::find_if(entries.begin(), entries.end(), [&](const auto& entry) {
    if (key.is_none()) return entry.first.is_none();
    return key.is_number() && entry.first.is_number() && CompareNumbers(key, entry.first) == 0;
  });
  return static_cast<size_t>(it - entries.begin());
}

const Value* Dict::Find(const Value& key) const {
  const size_t place = PlaceOf(key);
  return place == entries.size() ? nullptr : &entries[place].second;
}

const Value* Dict::Find(const std::string& key) const {
  const auto it = index_.find(key);
  return it == index_.end() ? nullptr : &entries[it->second].second;
}

const Value* Namespace::Find(const std::string& name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::Set(const std::string& name, Value value) {
  for (auto& [key, held] : attributes) {
    if (key != name) continue;
    held = std::move(value);
    return;
  }
  attributes.emplace_back(name, std::move(value));
}

int Value::depth() const {
  if (const Sequence* held = sequence()) return held->depth;
  if (const Dict* held = dict()) return held->depth;
  if (const Iterator* held = iterator()) return held->items->depth;
  if (const LoopState* held = loop()) return held->depth();
  if (const Callable* held = callable()) return held->depth;
  return 0;
}

const char* Value::type_name() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "None";
  if (If<bool>()) return "bool";
  if (If<int64_t>()) return "int";
  if (If<double>()) return "float";
  if (text()) return "str";
  if (dict()) return "dict";
  if (name_space()) return "namespace";
  if (iterator()) return "generator";
  if (loop()) return "loop";
  if (callable()) return callable()->macro != nullptr ? "macro" : "function";
  return sequence()->flavor == Sequence::Flavor::kTuple ? "tuple" : "list";
}

Value UndefinedNamed(const std::string& name) {
  return Value(Undefined{std::make_shared<const std::string>(name)});
}

Value MakeText(std::string bytes) {
  return Value(std::make_shared<const Text>(nullptr, std::move(bytes), false));
}

Value MakeList(std::vector<Value> items) {
  return Value(
      std::make_shared<const Sequence>(nullptr, Sequence::Flavor::kList, std::move(items)));
}

Value MakeDict(Dict::Entries entries) {
  return Value(std::make_shared<const Dict>(nullptr, std::move(entries)));
}

void FailUndefined(const Value& value) {
  const auto* undefined = value.If<Undefined>();
  throw Failure(undefined == nullptr || undefined->name == nullptr
                    ? "a value is undefined"
                    : "'" + *undefined->name + "' is undefined");
}

bool IsTrue(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_integral()) return value.integer() != 0;
  if (const double* number = value.If<double>()) return *number != 0;
  if (const Text* text = value.text()) return !text->bytes.empty();
  if (const Sequence* sequence = value.sequence()) return !sequence->items.empty();
  if (const Dict* dict = value.dict()) return !dict->entries.empty();
  return true;
}

bool Equal(const Value& a, const Value& b, Meter& meter) {
  meter.Step();
  if (a.is_number() && b.is_number()) return CompareNumbers(a, b) == 0;
  if (a.text() && b.text()) {
    if (a.text()->bytes.size() != b.text()->bytes.size()) return false;
    meter.Handle(a.text()->bytes.size());
    return a.text()->bytes == b.text()->bytes;
  }
  if (a.sequence() && b.sequence()) {
    return a.sequence() == b.sequence() ||
           (a.sequence()->flavor == b.sequence()->flavor &&
            EqualItems(a.sequence()->items, b.sequence()->items, meter));
  }
  if (a.dict() && b.dict()) return a.dict() == b.dict() || EqualDicts(*a.dict(), *b.dict(), meter);
  if (a.is_undefined() || a.is_none()) {
    return a.is_undefined() == b.is_undefined() && a.is_none() == b.is_none();
  }
  if (a.name_space()) return a.name_space() == b.name_space();
  if (a.iterator()) return a.iterator() == b.iterator();
  if (a.loop()) return a.loop() == b.loop();
  if (a.callable()) return a.callable() == b.callable();
  return false;
}

bool Less(const Value& a, const Value& b, Meter& meter) {
  meter.Step();
  if (a.is_number() && b.is_number()) return CompareNumbers(a, b) == -1;
  // The order of bytes in UTF-8 is that of code points.
  if (a.text() && b.text()) {
    meter.Handle(std::min(a.text()->bytes.size(), b.text()->bytes.size()));
    return a.text()->bytes < b.text()->bytes;
  }
  if (a.sequence() && b.sequence() && a.sequence()->flavor == b.sequence()->flavor &&
      a.sequence()->flavor != Sequence::Flavor::kView) {
    const auto &x = a.sequence()->items, &y = b.sequence()->items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!Equal(x[i], y[i], meter)) return Less(x[i], y[i], meter);
    }
    return x.size() < y.size();
  }
  if (a.is_undefined()) FailUndefined(a);
  if (b.is_undefined()) FailUndefined(b);
  throw Failure(std::string("cannot order ") + a.type_name() + " and " + b.type_name());
}

}  // namespace fla::chat
