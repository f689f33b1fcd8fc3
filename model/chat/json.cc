#include "model/chat/json.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "model/chat/meter.h"
#include "model/chat/text.h"
#include "model/unicode.h"

namespace fla::chat {
namespace {

constexpr size_t kMaxJsonDepth = 64;

// Takes nlohmann's events, since its own values forget the order of keys and of what type a large
// integer was.
class Builder {
 public:
  using Json = nlohmann::json;

  bool null() { return Add(Value(None{})); }
  bool boolean(bool value) { return Add(Value(value)); }
  bool number_integer(Json::number_integer_t value) { return Add(Value(int64_t{value})); }
  bool number_unsigned(Json::number_unsigned_t value) {
    if (value > static_cast<uint64_t>(INT64_MAX)) return FailInteger();
    return Add(Value(static_cast<int64_t>(value)));
  }
  bool number_float(Json::number_float_t value, const std::string& text) {
    if (text.find_first_of(".eE") == std::string::npos) return FailInteger();
    return Add(Value(static_cast<double>(value)));
  }
  bool string(std::string& text) { return Add(MakeText(std::move(text))); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(size_t) { return Open(true); }
  bool start_array(size_t) { return Open(false); }
  bool key(std::string& text) {
    open_.back().entries.emplace_back(MakeText(std::move(text)), Value());
    return true;
  }
  bool end_object() {
    Value value = MakeDict(std::move(open_.back().entries));
    open_.pop_back();
    return Add(std::move(value));
  }
  bool end_array() {
    Value value = MakeList(std::move(open_.back().items));
    open_.pop_back();
    return Add(std::move(value));
  }
  bool parse_error(size_t, const std::string&, const Json::exception& error) {
    throw std::invalid_argument(error.what());
  }

  Value result;

 private:
  struct Level {
    bool is_object;
    Dict::Entries entries;
    std::vector<Value> items;
  };

  bool Add(Value value) {
    if (open_.empty()) {
      result = std::move(value);
    } else if (open_.back().is_object) {
      open_.back().entries.back().second = std::move(value);
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }
  bool Open(bool is_object) {
    if (open_.size() == kMaxJsonDepth) throw std::invalid_argument("nested deeper than 64");
    open_.push_back({is_object, {}, {}});
    return true;
  }
  bool FailInteger() { throw std::invalid_argument("an integer beyond 64 bits"); }

  std::vector<Level> open_;
};

void AppendJsonText(std::string_view text, bool ensure_ascii, std::string* out) {
  const auto code = [&](unsigned unit) {
    char digits[16];
    std::snprintf(digits, sizeof(digits), "\\u%04x", unit);
    *out += digits;
  };
  *out += '"';
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = unicode::Next(text, &i);
    constexpr std::string_view kEscaped = "\"\\\n\r\t\f\b", kLetters = "\"\\nrtfb";
    if (c < 128 && kEscaped.find(static_cast<char>(c)) != std::string_view::npos) {
      *out += {'\\', kLetters[kEscaped.find(static_cast<char>(c))]};
    } else if (c < 0x20) {
      code(c);
    } else if (c < 0x7F || !ensure_ascii) {
      *out += text.substr(begin, i - begin);
    } else if (c < 0x10000) {
      code(c);
    } else {
      code(0xD800 + ((c - 0x10000) >> 10));
      code(0xDC00 + ((c - 0x10000) & 0x3FF));
    }
  }
  *out += '"';
}

std::string JsonOfFloat(double number) {
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
  return ReprOfFloat(number);
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Meter& meter) : style_(style), meter_(meter) {}

  void Write(const Value& value, int level) {
    meter_.Step();
    if (const Text* text = value.text()) {
      meter_.Handle(text->bytes.size());
      AppendJsonText(text->bytes, style_.ensure_ascii, &out);
    } else if (const Sequence* sequence = value.sequence();
               sequence != nullptr && sequence->flavor != Sequence::Flavor::kView) {
      const auto& items = sequence->items;
      WriteAll('[', ']', items.size(), level, [&](size_t i) { Write(items[i], level + 1); });
    } else if (const Dict* dict = value.dict()) {
      WriteDict(*dict, level);
    } else {
      out += Scalar(value);
    }
    meter_.CheckRoom(out.size());
  }

  std::string out;

 private:
  static std::string Scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (const bool* boolean = value.If<bool>()) return *boolean ? "true" : "false";
    if (const auto* integer = value.If<int64_t>()) return std::to_string(*integer);
    if (const double* number = value.If<double>()) return JsonOfFloat(*number);
    if (value.is_undefined()) FailUndefined(value);
    throw Failure(std::string("tojson: wanted a value that JSON has, got ") + value.type_name());
  }

  void WriteDict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        return Less(a->first, b->first, meter_);
      });
    }
    WriteAll('{', '}', entries.size(), level, [&](size_t i) {
      const Text* key = entries[i]->first.text();
      AppendJsonText(key != nullptr ? key->bytes : Scalar(entries[i]->first), style_.ensure_ascii,
                     &out);
      out += style_.key_separator;
      Write(entries[i]->second, level + 1);
    });
  }

  template <typename WriteOne>
  void WriteAll(char open, char close, size_t count, int level, WriteOne write_one) {
    out += open;
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) out += style_.item_separator;
      if (style_.indented) NewLine(level + 1);
      write_one(i);
    }
    if (style_.indented && count > 0) NewLine(level);
    out += close;
  }

  void NewLine(int level) {
    meter_.CheckRoom(out.size() + style_.indent.size() * static_cast<size_t>(level));
    meter_.Handle(style_.indent.size() * static_cast<size_t>(level));
    out += '\n';
    for (int i = 0; i < level; ++i) out += style_.indent;
  }

  const JsonStyle& style_;
  Meter& meter_;
};

void AppendRepr(const Value& value, Meter& meter, std::string* out);

template <typename Items, typename AppendOne>
void AppendAll(const char* open, const char* close, const Items& items, Meter& meter,
               std::string* out, AppendOne append_one) {
  *out += open;
  bool first = true;
  for (const auto& item : items) {
    if (!first) *out += ", ";
    first = false;
    append_one(item);
    meter.CheckRoom(out->size());
  }
  *out += close;
}

void AppendDict(const Dict::Entries& entries, Meter& meter, std::string* out) {
  AppendAll("{", "}", entries, meter, out, [&](const auto& entry) {
    AppendRepr(entry.first, meter, out);
    *out += ": ";
    AppendRepr(entry.second, meter, out);
  });
}

void AppendRepr(const Value& value, Meter& meter, std::string* out) {
  meter.Step();
  if (const Text* text = value.text()) {
    meter.Handle(text->bytes.size());
    *out += Quoted(text->bytes);
  } else if (const Sequence* sequence = value.sequence()) {
    const bool tuple = sequence->flavor == Sequence::Flavor::kTuple;
    const bool single = tuple && sequence->items.size() == 1;
    AppendAll(tuple ? "(" : "[",
              single  ? ",)"
              : tuple ? ")"
                      : "]",
              sequence->items, meter, out,
              [&](const Value& item) { AppendRepr(item, meter, out); });
  } else if (const Dict* dict = value.dict()) {
    AppendDict(dict->entries, meter, out);
  } else if (value.is_undefined()) {
    *out += "Undefined";
  } else if (value.is_none()) {
    *out += "None";
  } else if (const bool* boolean = value.If<bool>()) {
    *out += *boolean ? "True" : "False";
  } else if (const auto* integer = value.If<int64_t>()) {
    *out += std::to_string(*integer);
  } else if (const double* number = value.If<double>()) {
    *out += ReprOfFloat(*number);
  } else {
    // What Python prints holds an address, or what the namespace holds: no prompt means that.
    throw Failure(std::string("wanted a value that can be printed, got a ") + value.type_name());
  }
}

}  // namespace

Value ParseJsonValue(std::string_view json) {
  Builder builder;
  nlohmann::json::sax_parse(json, &builder);
  return builder.result;
}

std::string ToJson(const Value& value, const JsonStyle& style, Meter& meter) {
  JsonWriter writer(style, meter);
  writer.Write(value, 0);
  return std::move(writer.out);
}

std::string ToText(const Value& value, Meter& meter) {
  if (const Text* text = value.text()) return text->bytes;
  return value.is_undefined() ? "" : Repr(value, meter);
}

std::string Repr(const Value& value, Meter& meter) {
  std::string out;
  AppendRepr(value, meter, &out);
  return out;
}

}  // namespace fla::chat
