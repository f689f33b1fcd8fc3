// The filters, tests, methods and functions that templates may use.
#pragma once

#include <ctime>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat/heap.h"

namespace fla::chat {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// The arguments of one call by the names of its parameters.
class BoundArguments {
 public:
  // Throws Failure for arguments beyond the parameters and for names that are none of them.
  // `function` is for messages; it and the arguments must outlive this.
  BoundArguments(const char* function, const Arguments& arguments,
                 std::initializer_list<const char*> parameters);

  BoundArguments(const char*, Arguments&&, std::initializer_list<const char*>) = delete;

  // Null where it is not given.
  const Value* Find(size_t parameter) const { return values_[parameter]; }
  // These throw Failure for a value of another type; Required for one that is not given.
  const Value& Required(size_t parameter) const;
  const std::string& Text(size_t parameter) const;
  int64_t Integer(size_t parameter, int64_t fallback) const;
  bool Bool(size_t parameter, bool fallback) const;
  // None where it is not given or None.
  bool IsGiven(size_t parameter) const;

 private:
  [[noreturn]] void Fail(size_t parameter, const char* wanted) const;

  const char* function_;
  std::vector<const char*> parameters_;
  std::vector<const Value*> values_;
};

using Filter = Value (*)(Heap&, const Value&, const Arguments&);
using Test = bool (*)(Heap&, const Value&, const Arguments&);
using Function = Value (*)(Heap&, const Arguments&);

// These are null where there is none.
const Filter* FindFilter(std::string_view name);
const Test* FindTest(std::string_view name);
const Function* FindFunction(std::string_view name);

// Of text, lists, dicts and loops.
bool HasMethod(const Value& self, std::string_view name);
Value CallMethod(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments);

// `format % values`: the conversions s, d, i, f, r and %%.
Value FormatPercent(Heap& heap, std::string_view format, const Value& values);
// `"{} {name}".format(...)`, without conversions and format specifications.
Value FormatBraces(Heap& heap, std::string_view format, const Arguments& arguments);

}  // namespace fla::chat
