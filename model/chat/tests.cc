#include <algorithm>
#include <functional>
#include <map>

#include "model/chat/builtins.h"
#include "model/chat/json.h"
#include "model/chat/operators.h"
#include "model/chat/text.h"

namespace fla::chat {
namespace {

bool IsInteger(const Value& value) { return value.If<int64_t>() != nullptr; }
bool IsText(const Value& value) { return value.text() != nullptr; }

bool IsSequence(const Value& value) {
  return value.is_undefined() || value.text() || value.dict() ||
         (value.sequence() && value.sequence()->flavor != Sequence::Flavor::kView);
}

bool IsIterable(const Value& value) {
  return value.is_undefined() || value.text() || value.dict() || value.sequence() ||
         value.iterator();
}

int64_t IntegerOf(const Value& value) {
  if (value.is_integral()) return value.integer();
  if (value.is_undefined()) FailUndefined(value);
  throw Failure(std::string("a test: wanted an integer, got ") + value.type_name());
}

bool IsDefined(const Value& value) { return !value.is_undefined(); }
bool IsUndefined(const Value& value) { return value.is_undefined(); }
bool IsNone(const Value& value) { return value.is_none(); }
bool IsBoolean(const Value& value) { return value.If<bool>() != nullptr; }
bool IsTheTrue(const Value& value) { return IsBoolean(value) && *value.If<bool>(); }
bool IsTheFalse(const Value& value) { return IsBoolean(value) && !*value.If<bool>(); }
bool IsFloat(const Value& value) { return value.If<double>() != nullptr; }
bool IsNumber(const Value& value) { return value.is_number(); }
bool IsMapping(const Value& value) { return value.dict() != nullptr; }
bool IsCallable(const Value& value) { return value.is_undefined() || value.callable() != nullptr; }
bool IsOdd(const Value& value) { return IntegerOf(value) % 2 != 0; }
bool IsEven(const Value& value) { return IntegerOf(value) % 2 == 0; }

// A test of the value alone.
template <bool (*test)(const Value&)>
bool Plain(Heap&, const Value& value, const Arguments& arguments) {
  const BoundArguments none("a test", arguments, {});
  return test(value);
}

// A comparison with the argument.
template <const char* op>
bool Compares(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("a test", arguments, {"other"});
  return Compare(heap, op, value, bound.Required(0));
}

constexpr char kEq[] = "==", kNe[] = "!=", kLt[] = "<", kLe[] = "<=", kGt[] = ">",
               kGe[] = ">=", kIn[] = "in";

bool DivisibleBy(Heap&, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("divisibleby", arguments, {"num"});
  const int64_t divisor = bound.Integer(0, 0);
  if (divisor == 0) throw Failure("division by zero");
  return divisor == -1 || IntegerOf(value) % divisor == 0;
}

bool SameAs(Heap& heap, const Value& value, const Arguments& arguments) {
  const BoundArguments bound("sameas", arguments, {"other"});
  const Value& other = bound.Required(0);
  return std::string_view(value.type_name()) == other.type_name() &&
         Equal(value, other, heap.meter());
}

bool IsLower(Heap& heap, const Value& value, const Arguments&) {
  return IsAllLower(ToText(value, heap.meter()));
}

bool IsUpper(Heap& heap, const Value& value, const Arguments&) {
  return IsAllUpper(ToText(value, heap.meter()));
}

const std::map<std::string_view, Test>& Tests() {
  static const std::map<std::string_view, Test> kTests = {
      {"defined", Plain<IsDefined>},
      {"undefined", Plain<IsUndefined>},
      {"none", Plain<IsNone>},
      {"boolean", Plain<IsBoolean>},
      {"true", Plain<IsTheTrue>},
      {"false", Plain<IsTheFalse>},
      {"integer", Plain<IsInteger>},
      {"float", Plain<IsFloat>},
      {"number", Plain<IsNumber>},
      {"string", Plain<IsText>},
      {"mapping", Plain<IsMapping>},
      {"sequence", Plain<IsSequence>},
      {"iterable", Plain<IsIterable>},
      {"callable", Plain<IsCallable>},
      {"odd", Plain<IsOdd>},
      {"even", Plain<IsEven>},
      {"divisibleby", DivisibleBy},
      {"sameas", SameAs},
      {"lower", IsLower},
      {"upper", IsUpper},
      {"in", Compares<kIn>},
      {"eq", Compares<kEq>},
      {"==", Compares<kEq>},
      {"equalto", Compares<kEq>},
      {"ne", Compares<kNe>},
      {"!=", Compares<kNe>},
      {"lt", Compares<kLt>},
      {"<", Compares<kLt>},
      {"lessthan", Compares<kLt>},
      {"le", Compares<kLe>},
      {"<=", Compares<kLe>},
      {"gt", Compares<kGt>},
      {">", Compares<kGt>},
      {"greaterthan", Compares<kGt>},
      {"ge", Compares<kGe>},
      {">=", Compares<kGe>},
  };
  return kTests;
}

}  // namespace

const Test* FindTest(std::string_view name) {
  const auto it = Tests().find(name);
  return it == Tests().end() ? nullptr : &it->second;
}

}  // namespace fla::chat
