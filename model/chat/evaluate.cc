#include "model/chat/interpreter.h"
#include "model/chat/json.h"
#include "model/chat/operators.h"

namespace fla::chat {

Value Interpreter::Evaluate(const Expression& node, Scope& scope, const Value* filtered) {
  using Kind = Expression::Kind;
  const Nesting nesting(*this);
  heap_.meter().Step();
  const auto operand = [&](size_t i) { return Evaluate(*node.operands[i], scope); };
  const auto all = [&] {
    std::vector<Value> items;
    items.reserve(node.operands.size());
    for (size_t i = 0; i < node.operands.size(); ++i) items.push_back(operand(i));
    return items;
  };
  switch (node.kind) {
    case Kind::kConstant:
      return node.value;
    case Kind::kName:
      return EvaluateName(node, scope);
    case Kind::kAttribute: {
      const Value object = operand(0);
      line_ = node.line;
      return GetAttribute(heap_, object, node.name);
    }
    case Kind::kItem:
      return EvaluateItem(node, scope);
    case Kind::kSlice:
      break;  // an index: EvaluateItem
    case Kind::kCall:
      return EvaluateCall(node, scope);
    case Kind::kFilter:
      return EvaluateFilter(node, scope, filtered);
    case Kind::kTest:
      return Value(EvaluateTest(node, scope));
    case Kind::kNot:
      return Value(!IsTrue(operand(0)));
    case Kind::kNegate: {
      const Value value = operand(0);
      line_ = node.line;
      return Negate(value);
    }
    case Kind::kPlus: {
      const Value value = operand(0);
      line_ = node.line;
      return Negate(Negate(value));
    }
    case Kind::kAnd: {
      Value left = operand(0);
      return IsTrue(left) ? operand(1) : left;
    }
    case Kind::kOr: {
      Value left = operand(0);
      return IsTrue(left) ? left : operand(1);
    }
    case Kind::kBinary: {
      const Value left = operand(0), right = operand(1);
      line_ = node.line;
      return Binary(heap_, node.name, left, right);
    }
    case Kind::kCompare:
      return Value(EvaluateCompare(node, scope));
    case Kind::kConcat:
      return EvaluateConcat(node, scope);
    case Kind::kCondition:
      if (IsTrue(operand(0))) return operand(1);
      return node.operands[2] == nullptr ? Value() : operand(2);
    case Kind::kList:
      return heap_.NewList(all());
    case Kind::kTuple:
      return heap_.NewTuple(all());
    case Kind::kDict:
      return EvaluateDict(node, scope);
  }
  throw Failure("an expression stands where none can be evaluated");
}

Value Interpreter::EvaluateName(const Expression& node, const Scope& scope) const {
  if (const Value* value = scope.Find(node.name)) return *value;
  if (FindFunction(node.name) == nullptr) return UndefinedNamed(node.name);
  Callable function;
  function.name = node.name;
  return heap_.NewCallable(std::move(function));
}

Value Interpreter::EvaluateItem(const Expression& node, Scope& scope) {
  const Value object = Evaluate(*node.operands[0], scope);
  const Expression& index = *node.operands[1];
  if (index.kind != Expression::Kind::kSlice) {
    const Value key = Evaluate(index, scope);
    line_ = node.line;
    return GetItem(heap_, object, key);
  }
  Value bounds[3] = {Value(None{}), Value(None{}), Value(None{})};
  for (size_t i = 0; i < 3; ++i) {
    if (index.operands[i] != nullptr) bounds[i] = Evaluate(*index.operands[i], scope);
  }
  line_ = node.line;
  return GetSlice(heap_, object, bounds[0], bounds[1], bounds[2]);
}

Arguments Interpreter::EvaluateArguments(const Expression& node, Scope& scope) {
  Arguments arguments;
  const size_t named_from = node.operands.size() - node.names.size();
  for (size_t i = 1; i < node.operands.size(); ++i) {
    Value value = Evaluate(*node.operands[i], scope);
    if (i < named_from) {
      arguments.positional.push_back(std::move(value));
    } else {
      arguments.named.emplace_back(node.names[i - named_from], std::move(value));
    }
  }
  return arguments;
}

Value Interpreter::EvaluateCall(const Expression& node, Scope& scope, const Value* caller) {
  const Value function = Evaluate(*node.operands[0], scope);
  const Arguments arguments = EvaluateArguments(node, scope);
  line_ = node.line;
  if (function.is_undefined()) FailUndefined(function);
  const Callable* callable = function.callable();
  if (callable == nullptr) {
    throw Failure(std::string("wanted something to call, got ") + function.type_name());
  }
  if (callable->macro != nullptr) return CallMacro(*callable, arguments, caller);
  if (caller != nullptr) throw Failure("{% call %}: wanted a macro, got '" + callable->name + "'");
  if (callable->is_method) return CallMethod(heap_, callable->self, callable->name, arguments);
  return (*FindFunction(callable->name))(heap_, arguments);
}

Value Interpreter::EvaluateFilter(const Expression& node, Scope& scope, const Value* filtered) {
  const Expression* operand = node.operands[0].get();
  if (operand == nullptr && filtered == nullptr) throw Failure("a filter of nothing");
  const Value value = operand == nullptr ? *filtered : Evaluate(*operand, scope, filtered);
  const Arguments arguments = EvaluateArguments(node, scope);
  line_ = node.line;
  return (*FindFilter(node.name))(heap_, value, arguments);
}

bool Interpreter::EvaluateTest(const Expression& node, Scope& scope) {
  const Value value = Evaluate(*node.operands[0], scope);
  const Arguments arguments = EvaluateArguments(node, scope);
  line_ = node.line;
  return (*FindTest(node.name))(heap_, value, arguments);
}

bool Interpreter::EvaluateCompare(const Expression& node, Scope& scope) {
  Value left = Evaluate(*node.operands[0], scope);
  for (size_t i = 0; i < node.names.size(); ++i) {
    Value right = Evaluate(*node.operands[i + 1], scope);
    line_ = node.line;
    if (!Compare(heap_, node.names[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::EvaluateConcat(const Expression& node, Scope& scope) {
  std::string text;
  for (const ExpressionPtr& operand : node.operands) {
    text += ToText(Evaluate(*operand, scope), heap_.meter());
    line_ = node.line;
    heap_.meter().Handle(text.size());
    heap_.meter().CheckRoom(text.size());
  }
  return heap_.NewText(std::move(text));
}

Value Interpreter::EvaluateDict(const Expression& node, Scope& scope) {
  Dict::Entries entries;
  for (size_t i = 0; i < node.operands.size(); i += 2) {
    Value key = Evaluate(*node.operands[i], scope);
    entries.emplace_back(std::move(key), Evaluate(*node.operands[i + 1], scope));
  }
  line_ = node.line;
  return heap_.NewDict(std::move(entries));
}

}  // namespace fla::chat
