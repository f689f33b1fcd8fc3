#include <algorithm>
#include <map>
#include <optional>

#include "model/chat/builtins.h"
#include "model/chat/filters_of_lists.h"
#include "model/chat/json.h"
#include "model/chat/loop_state.h"
#include "model/chat/operators.h"
#include "model/chat/text.h"

namespace fla::chat {
namespace {

using TextMethod = Value (*)(Heap&, const std::string&, const Arguments&);
using DictMethod = Value (*)(Heap&, const Dict&, const Arguments&);

std::optional<std::string> OptionalText(const BoundArguments& bound, size_t parameter) {
  if (!bound.IsGiven(parameter)) return std::nullopt;
  return bound.Text(parameter);
}

template <bool left, bool right>
Value StripMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound("strip", arguments, {"chars"});
  return heap.NewText(std::string(Strip(text, OptionalText(bound, 0), {left, right})));
}

Value TextList(Heap& heap, const std::vector<std::string_view>& parts) {
  heap.meter().CheckRoom(parts.size() * sizeof(Value));
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.push_back(heap.NewText(std::string(part)));
  return heap.NewList(std::move(items));
}

template <bool from_right>
Value SplitMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound("split", arguments, {"sep", "maxsplit"});
  const std::optional<std::string> separator = OptionalText(bound, 0);
  const int64_t most = bound.Integer(1, -1);
  if (separator && separator->empty()) throw Failure("split: wanted a separator, got ''");
  if (from_right && most >= 0) {
    if (!separator) throw Failure("rsplit: the argument 'maxsplit' without 'sep' is not supported");
    // The search from the right is not linear in the worst case.
    heap.meter().Handle(text.size() * std::min<size_t>(separator->size(), 1 << 20));
  }
  return TextList(heap, Split(text, separator, most, from_right));
}

Value SplitLinesMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  const BoundArguments none("splitlines", arguments, {});
  return TextList(heap, SplitLines(text));
}

template <bool at_end>
Value AffixMethod(Heap&, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound(at_end ? "endswith" : "startswith", arguments, {"affix"});
  const auto has = [&](const std::string& affix) {
    return at_end ? text.ends_with(affix) : text.starts_with(affix);
  };
  const Sequence* several = bound.Required(0).sequence();
  if (several == nullptr) return Value(has(bound.Text(0)));
  return Value(std::any_of(several->items.begin(), several->items.end(), [&](const Value& affix) {
    if (affix.text() == nullptr) {
      throw Failure(std::string("startswith: wanted texts, got ") + affix.type_name());
    }
    return has(affix.text()->bytes);
  }));
}

template <bool at_end>
Value RemoveAffixMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound(at_end ? "removesuffix" : "removeprefix", arguments, {"affix"});
  const std::string& affix = bound.Text(0);
  if (at_end ? !text.ends_with(affix) : !text.starts_with(affix)) return heap.NewText(text);
  return heap.NewText(text.substr(at_end ? 0 : affix.size(), text.size() - affix.size()));
}

Value ReplaceMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound("replace", arguments, {"old", "new", "count"});
  return heap.NewText(
      ReplaceMetered(heap, text, bound.Text(0), bound.Text(1), bound.Integer(2, -1)));
}

template <std::string (*change)(std::string_view)>
Value ChangeMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  const BoundArguments none("a method of text", arguments, {});
  return heap.NewText(change(text));
}

template <bool (*ask)(std::string_view)>
Value AskMethod(Heap&, const std::string& text, const Arguments& arguments) {
  const BoundArguments none("a method of text", arguments, {});
  return Value{ask(text)};
}

bool IsAlpha(std::string_view text) { return IsAllLetters(text, false); }
bool IsAlnum(std::string_view text) { return IsAllLetters(text, true); }

Value FindMethod(Heap&, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound("find", arguments, {"sub"});
  const size_t at = Find(text, bound.Text(0));
  if (at == std::string::npos) return Value(int64_t{-1});
  return Value(static_cast<int64_t>(CodePointCount(std::string_view{text}.substr(0, at))));
}

Value CountMethod(Heap&, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound("count", arguments, {"sub"});
  return Value(Count(text, bound.Text(0)));
}

Value JoinMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  const BoundArguments bound("join", arguments, {"iterable"});
  const auto items = ItemsOf(heap, bound.Required(0));
  for (const Value& item : items->items) {
    if (item.text() == nullptr) {
      throw Failure(std::string("join: wanted texts, got ") + item.type_name());
    }
  }
  return Join(heap, items->items, text);
}

Value FormatMethod(Heap& heap, const std::string& text, const Arguments& arguments) {
  return FormatBraces(heap, text, arguments);
}

const std::map<std::string_view, TextMethod>& TextMethods() {
  static const std::map<std::string_view, TextMethod> kMethods = {
      {"capitalize", ChangeMethod<Capitalize>},
      {"count", CountMethod},
      {"endswith", AffixMethod<true>},
      {"find", FindMethod},
      {"format", FormatMethod},
      {"isalnum", AskMethod<IsAlnum>},
      {"isalpha", AskMethod<IsAlpha>},
      {"isdigit", AskMethod<IsAllDigits>},
      {"islower", AskMethod<IsAllLower>},
      {"isspace", AskMethod<IsAllSpace>},
      {"isupper", AskMethod<IsAllUpper>},
      {"join", JoinMethod},
      {"lower", ChangeMethod<Lower>},
      {"lstrip", StripMethod<true, false>},
      {"removeprefix", RemoveAffixMethod<false>},
      {"removesuffix", RemoveAffixMethod<true>},
      {"replace", ReplaceMethod},
      {"rsplit", SplitMethod<true>},
      {"rstrip", StripMethod<false, true>},
      {"split", SplitMethod<false>},
      {"splitlines", SplitLinesMethod},
      {"startswith", AffixMethod<false>},
      {"strip", StripMethod<true, true>},
      {"title", ChangeMethod<Title>},
      {"upper", ChangeMethod<Upper>},
  };
  return kMethods;
}

Value GetMethod(Heap& heap, const Dict& dict, const Arguments& arguments) {
  const BoundArguments bound("get", arguments, {"key", "default"});
  heap.meter().Step(bound.Required(0).text() == nullptr ? static_cast<int64_t>(dict.entries.size())
                                                        : 1);
  if (const Value* value = dict.Find(bound.Required(0))) return *value;
  return bound.Find(1) == nullptr ? Value(None{}) : *bound.Find(1);
}

Value KeysMethod(Heap& heap, const Dict& dict, const Arguments& arguments) {
  const BoundArguments none("keys", arguments, {});
  std::vector<Value> items;
  for (const auto& entry : dict.entries) items.push_back(entry.first);
  return heap.NewSequence(Sequence::Flavor::kView, std::move(items));
}

Value ValuesMethod(Heap& heap, const Dict& dict, const Arguments& arguments) {
  const BoundArguments none("values", arguments, {});
  std::vector<Value> items;
  for (const auto& entry : dict.entries) items.push_back(entry.second);
  return heap.NewSequence(Sequence::Flavor::kView, std::move(items));
}

Value ItemsMethod(Heap& heap, const Dict& dict, const Arguments& arguments) {
  const BoundArguments none("items", arguments, {});
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) items.push_back(heap.NewTuple({key, value}));
  return heap.NewSequence(Sequence::Flavor::kView, std::move(items));
}

Value CopyMethod(Heap& heap, const Dict& dict, const Arguments& arguments) {
  const BoundArguments none("copy", arguments, {});
  return heap.NewDict(dict.entries);
}

const std::map<std::string_view, DictMethod>& DictMethods() {
  static const std::map<std::string_view, DictMethod> kMethods = {
      {"copy", CopyMethod}, {"get", GetMethod},       {"items", ItemsMethod},
      {"keys", KeysMethod}, {"values", ValuesMethod},
  };
  return kMethods;
}

// list.index and list.count.
Value CallListMethod(Heap& heap, const Sequence& list, std::string_view name,
                     const Arguments& arguments) {
  const BoundArguments bound("a method of lists", arguments, {"value"});
  int64_t count = 0;
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (!Equal(list.items[i], bound.Required(0), heap.meter())) continue;
    if (name == "index") return Value(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index") throw Failure("index: wanted a value of the list, got another");
  return Value(count);
}

}  // namespace

bool HasMethod(const Value& self, std::string_view name) {
  if (self.text() != nullptr) return TextMethods().count(name) > 0;
  if (self.dict() != nullptr) return DictMethods().count(name) > 0;
  if (self.loop() != nullptr) return name == "cycle";
  return self.sequence() != nullptr && self.sequence()->flavor != Sequence::Flavor::kView &&
         (name == "index" || name == "count");
}

Value CallMethod(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments) {
  if (const Text* text = self.text()) {
    heap.meter().Handle(text->bytes.size());
    return TextMethods().at(name)(heap, text->bytes, arguments);
  }
  if (const Dict* dict = self.dict()) return DictMethods().at(name)(heap, *dict, arguments);
  if (const Sequence* list = self.sequence()) return CallListMethod(heap, *list, name, arguments);
  const auto& values = arguments.positional;  // loop.cycle
  if (values.empty()) throw Failure("cycle: wanted values, got none");
  return values[static_cast<size_t>(std::max<int64_t>(self.loop()->index0, 0)) % values.size()];
}

}  // namespace fla::chat
