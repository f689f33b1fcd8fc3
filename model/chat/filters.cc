#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>

#include "model/chat/builtins.h"
#include "model/chat/filters_of_lists.h"
#include "model/chat/json.h"
#include "model/chat/operators.h"
#include "model/chat/text.h"

namespace fla::chat {
namespace {

// str() of what is filtered.
std::string TextOf(Heap& heap, const Value& value) {
  std::string text = ToText(value, heap.meter());
  heap.meter().Handle(text.size());
  return text;
}

// A filter of text alone.
template <std::string (*filter)(std::string_view)>
Value OfText(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("a filter", arguments, {});
  return heap.NewText(filter(TextOf(heap, value)));
}

Value TrimFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("trim", arguments, {"chars"});
  std::optional<std::string> characters;
  if (bound.IsGiven(0)) characters = bound.Text(0);
  return heap.NewText(std::string(Strip(TextOf(heap, value), characters)));
}

Value ReplaceFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("replace", arguments, {"old", "new", "count"});
  return heap.NewText(ReplaceMetered(heap, TextOf(heap, value), TextOf(heap, bound.Required(0)),
                                     TextOf(heap, bound.Required(1)), bound.Integer(2, -1)));
}

Value StringFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("string", arguments, {});
  return value.text() != nullptr ? value : heap.NewText(TextOf(heap, value));
}

Value SafeFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments none("safe", arguments, {});
  return heap.NewText(TextOf(heap, value), true);
}

Value IndentFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("indent", arguments, {"width", "first", "blank"});
  std::string indent(4, ' ');
  if (bound.IsGiven(0)) {
    if (bound.Find(0)->text() != nullptr) {
      indent = bound.Text(0);
    } else {
      const int64_t width = std::max<int64_t>(bound.Integer(0, 4), 0);
      heap.meter().CheckRoom(static_cast<size_t>(width));
      indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  const bool blank = bound.Bool(2, false);
  const std::string text = TextOf(heap, value) + "\n";
  std::string out = bound.Bool(1, false) ? indent : "";
  bool first = true;
  for (const std::string_view line : SplitLines(text)) {
    if (!first) out += '\n';
    if (!first && (blank || !line.empty())) out += indent;
    out += line;
    first = false;
    heap.meter().Handle(indent.size());
    heap.meter().CheckRoom(out.size());
  }
  return heap.NewText(std::move(out));
}

Value ToJsonFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("tojson", arguments,
                             {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.Bool(0, false);
  if (bound.IsGiven(1)) {
    style.indented = true;
    style.item_separator = std::string(1, ',');
    if (bound.Find(1)->text() != nullptr) {
      style.indent = bound.Text(1);
    } else {
      const int64_t width = std::max<int64_t>(bound.Integer(1, 0), 0);
      heap.meter().CheckRoom(static_cast<size_t>(width));
      style.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (bound.IsGiven(2)) {
    const Sequence* pair = bound.Find(2)->sequence();
    if (pair == nullptr || pair->items.size() != 2 || !pair->items[0].text() ||
        !pair->items[1].text()) {
      throw Failure("tojson: the argument 'separators': wanted two texts, got something else");
    }
    style.item_separator = pair->items[0].text()->bytes;
    style.key_separator = pair->items[1].text()->bytes;
  }
  style.sort_keys = bound.Bool(3, false);
  return heap.NewText(ToJson(value, style, heap.meter()));
}

Value DefaultFilter(Heap&, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("default", arguments, {"default_value", "boolean"});
  const bool take = value.is_undefined() || (bound.Bool(1, false) && !IsTrue(value));
  if (!take) return value;
  return bound.Find(0) == nullptr ? MakeText("") : *bound.Find(0);
}

std::optional<double> NumberIn(std::string_view text) {
  const std::string stripped(Strip(text, std::nullopt));
  if (stripped.empty() || stripped.find_first_of("xXpP") != std::string::npos) return std::nullopt;
  char* end = nullptr;
  const double number = std::strtod(stripped.c_str(), &end);
  if (end != stripped.c_str() + stripped.size()) return std::nullopt;
  return number;
}

Value IntFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("int", arguments, {"default", "base"});
  Value fallback = bound.Find(0) == nullptr ? Value(int64_t{0}) : *bound.Find(0);
  const int64_t base = bound.Integer(1, 10);
  if (base < 2 || base > 36) throw Failure("int: the argument 'base': wanted 2 to 36");
  if (value.is_undefined()) FailUndefined(value);
  if (value.is_integral()) return Value(value.integer());
  std::optional<double> number;
  if (const double* held = value.If<double>()) number = *held;
  if (const Text* text = value.text()) {
    heap.meter().Handle(text->bytes.size());
    std::string_view digits = Strip(text->bytes, std::nullopt);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    int64_t integer = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), integer,
                                        static_cast<int>(base));
    if (result.ec == std::errc() && result.ptr == digits.data() + digits.size()) {
      return Value(integer);
    }
    if (base == 10) number = NumberIn(text->bytes);
  }
  if (!number || !std::isfinite(*number)) return fallback;
  if (std::fabs(*number) >= 9.2e18) throw Failure("an integer beyond 64 bits");
  return Value(static_cast<int64_t>(*number));
}

Value FloatFilter(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("float", arguments, {"default"});
  if (value.is_number()) return Value(value.number());
  if (const Text* text = value.text()) {
    heap.meter().Handle(text->bytes.size());
    if (const auto number = NumberIn(text->bytes)) return Value(*number);
  }
  return bound.Find(0) == nullptr ? Value(0.0) : *bound.Find(0);
}

Value AbsFilter(Heap&, const Value& value, const Arguments& arguments) {
  const BoundArguments none("abs", arguments, {});
  if (!value.is_number())
    throw Failure(std::string("abs: wanted a number, got ") + value.type_name());
  return value.number() < 0 ? Negate(value) : value.If<bool>() ? Value(value.integer()) : value;
}

Value RoundFilter(Heap&, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("round", arguments, {"precision", "method"});
  const int64_t precision = bound.Integer(0, 0);
  const std::string method = bound.Find(1) == nullptr ? "common" : bound.Text(1);
  if (!value.is_number()) {
    throw Failure(std::string("round: wanted a number, got ") + value.type_name());
  }
  if (precision < 0 || precision > 300) {
    throw Failure("round: the argument 'precision': wanted 0 to 300");
  }
  if (method == "common") {
    if (value.is_integral() || !std::isfinite(value.number())) return value;
    char text[700];  // the digits are exact, so that halves go to the even side as in Python
    std::snprintf(text, sizeof(text), "%.*f", static_cast<int>(precision), value.number());
    return Value(std::strtod(text, nullptr));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  if (method == "ceil") return Value(std::ceil(value.number() * scale) / scale);
  if (method == "floor") return Value(std::floor(value.number() * scale) / scale);
  throw Failure("round: the argument 'method': wanted common, ceil or floor, got " + method);
}

const std::map<std::string_view, Filter>& Filters() {
  static const std::map<std::string_view, Filter> kFilters = [] {
    std::map<std::string_view, Filter> all = {
        {"abs", AbsFilter},
        {"capitalize", OfText<Capitalize>},
        {"d", DefaultFilter},
        {"default", DefaultFilter},
        {"float", FloatFilter},
        {"indent", IndentFilter},
        {"int", IntFilter},
        {"lower", OfText<Lower>},
        {"replace", ReplaceFilter},
        {"round", RoundFilter},
        {"safe", SafeFilter},
        {"string", StringFilter},
        {"title", OfText<TitleWords>},
        {"tojson", ToJsonFilter},
        {"trim", TrimFilter},
        {"upper", OfText<Upper>},
    };
    all.insert(FiltersOfLists().begin(), FiltersOfLists().end());
    return all;
  }();
  return kFilters;
}

}  // namespace

std::string ReplaceMetered(Heap& heap, const std::string& text, const std::string& from,
                           const std::string& to, int64_t most) {
  int64_t times = Count(text, from);
  if (most >= 0) times = std::min(times, most);
  size_t added = 0;
  if (__builtin_mul_overflow(static_cast<size_t>(times), to.size(), &added)) added = SIZE_MAX / 2;
  heap.meter().CheckRoom(text.size() + added);
  heap.meter().Handle(text.size() + added);
  return Replace(text, from, to, most);
}

const Filter* FindFilter(std::string_view name) {
  const auto it = Filters().find(name);
  return it == Filters().end() ? nullptr : &it->second;
}

}  // namespace fla::chat
