#include <cmath>
#include <cstdio>
#include <ctime>
#include <map>

#include "model/chat/builtins.h"
#include "model/chat/filters_of_lists.h"
#include "model/chat/json.h"
#include "model/chat/operators.h"
#include "model/chat/text.h"

namespace fla::chat {
namespace {

constexpr int64_t kMaxRange = 100000;  // as Jinja's sandbox

Value Range(Heap& heap, const Arguments& arguments) {
  const BoundArguments bound("range", arguments, {"start", "stop", "step"});
  const bool one = bound.Find(1) == nullptr;
  bound.Required(0);
  const int64_t begin = one ? 0 : bound.Integer(0, 0);
  const int64_t end = one ? bound.Integer(0, 0) : bound.Integer(1, 0);
  const int64_t step = bound.Integer(2, 1);
  if (step == 0) throw Failure("range: the argument 'step': wanted another integer than 0, got 0");
  std::vector<Value> items;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      throw Failure("range: wanted at most " + std::to_string(kMaxRange) + " integers");
    }
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return heap.NewList(std::move(items));
}

// The entries of dict(...) and namespace(...): those of a dict, then those given by name.
Dict::Entries EntriesOf(const char* function, Heap& heap, const Arguments& arguments) {
  const Arguments positional = {arguments.positional, {}};
  const BoundArguments bound(function, positional, {"mapping"});
  Dict::Entries entries;
  if (bound.Find(0) != nullptr) {
    if (bound.Find(0)->dict() == nullptr) {
      throw Failure(std::string(function) + ": wanted a dict, got " + bound.Find(0)->type_name());
    }
    entries = bound.Find(0)->dict()->entries;
  }
  for (const auto& [name, value] : arguments.named) {
    entries.emplace_back(heap.NewText(name), value);
  }
  return entries;
}

Value DictFunction(Heap& heap, const Arguments& arguments) {
  return heap.NewDict(EntriesOf("dict", heap, arguments));
}

Value NamespaceFunction(Heap& heap, const Arguments& arguments) {
  Namespace* made = heap.NewNamespace();
  for (const auto& [key, value] : EntriesOf("namespace", heap, arguments)) {
    if (key.text() == nullptr) throw Failure("namespace: wanted names, got another key");
    heap.SetAttribute(*made, key.text()->bytes, value);
  }
  return Value(made);
}

Value RaiseException(Heap& heap, const Arguments& arguments) {
  const BoundArguments bound("raise_exception", arguments, {"message"});
  throw Raised(ToText(bound.Required(0), heap.meter()));
}

Value StrftimeNow(Heap& heap, const Arguments& arguments) {
  const BoundArguments bound("strftime_now", arguments, {"format"});
  const std::string& format = bound.Text(0);
  if (format.size() > 256) throw Failure("strftime_now: wanted at most 256 bytes");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[4096];
  // A mark at the end tells an empty result from one that is too long.
  const size_t bytes = std::strftime(text, sizeof(text), (format + '.').c_str(), &local);
  if (bytes == 0) throw Failure("strftime_now: wanted a shorter format");
  return heap.NewText(std::string(text, bytes - 1));
}

const std::map<std::string_view, Function>& Functions() {
  static const std::map<std::string_view, Function> kFunctions = {
      {"dict", DictFunction}, {"namespace", NamespaceFunction}, {"raise_exception", RaiseException},
      {"range", Range},       {"strftime_now", StrftimeNow},
  };
  return kFunctions;
}

}  // namespace

const Function* FindFunction(std::string_view name) {
  const auto it = Functions().find(name);
  return it == Functions().end() ? nullptr : &it->second;
}

Value FormatPercent(Heap& heap, std::string_view format, const Value& values) {
  heap.meter().Handle(format.size());
  const Sequence* tuple = values.sequence();
  if (tuple != nullptr && tuple->flavor != Sequence::Flavor::kTuple) tuple = nullptr;
  size_t used = 0;
  const auto next = [&]() -> const Value& {
    const size_t count = tuple == nullptr ? 1 : tuple->items.size();
    if (used == count) throw Failure("'%': wanted more values");
    const size_t i = used++;
    return tuple == nullptr ? values : tuple->items[i];
  };
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    const char kind = ++i < format.size() ? format[i] : ' ';
    if (kind == '%') {
      out += '%';
    } else if (kind == 's' || kind == 'r') {
      out += kind == 's' ? ToText(next(), heap.meter()) : Repr(next(), heap.meter());
    } else if (kind == 'd' || kind == 'i' || kind == 'f') {
      const Value& value = next();
      if (!value.is_number()) {
        throw Failure(std::string("'%': wanted a number, got ") + value.type_name());
      }
      char text[400];
      if (kind == 'f') {
        std::snprintf(text, sizeof(text), "%f", value.number());
      } else {
        std::snprintf(text, sizeof(text), "%.0f", std::trunc(value.number()));
      }
      out += kind != 'f' && value.is_integral() ? std::to_string(value.integer()) : text;
    } else {
      throw Failure("'%': the conversion '" + std::string(1, kind) + "' is not supported");
    }
    heap.meter().CheckRoom(out.size());
  }
  if (tuple != nullptr && used < tuple->items.size()) throw Failure("'%': wanted fewer values");
  return heap.NewText(std::move(out));
}

Value FormatBraces(Heap& heap, std::string_view format, const Arguments& arguments) {
  std::string out;
  size_t automatic = 0;
  const auto find = [&](const std::string& name) -> const Value& {
    const bool number = name.find_first_not_of("0123456789") == std::string::npos;
    if (number && name.size() < 6) {
      const size_t i = name.empty() ? automatic++ : std::stoul(name);
      if (i < arguments.positional.size()) return arguments.positional[i];
    }
    for (const auto& [key, value] : arguments.named) {
      if (key == name) return value;
    }
    throw Failure("format: wanted an argument for {" + name + "}; others are not supported");
  };
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    if ((c == '{' || c == '}') && i + 1 < format.size() && format[i + 1] == c) {
      out += c;
      ++i;
    } else if (c == '{') {
      const size_t end = format.find('}', i);
      if (end == std::string_view::npos) throw Failure("format: wanted } after {");
      out += ToText(find(std::string(format.substr(i + 1, end - i - 1))), heap.meter());
      heap.meter().CheckRoom(out.size());
      i = end;
    } else if (c == '}') {
      throw Failure("format: wanted { before }");
    } else {
      out += c;
    }
  }
  return heap.NewText(std::move(out));
}

}  // namespace fla::chat
