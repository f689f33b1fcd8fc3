#include "model/chat/interpreter.h"

#include <algorithm>

#include "model/chat/json.h"
#include "model/chat/operators.h"

namespace fla::chat {

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent_.get()) {
    for (const auto& [key, value] : scope->variables_) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [key, held] : variables_) {
    if (key != name) continue;
    held = std::move(value);
    return;
  }
  variables_.emplace_back(name, std::move(value));
}

void Output::Append(std::string_view text) {
  if (text.size() > most_ - text_.size()) {
    throw Failure("makes more than " + std::to_string(most_) + " bytes");
  }
  meter_.Handle(text.size());
  meter_.Take(text.size());
  text_ += text;
}

Interpreter::Nesting::Nesting(Interpreter& interpreter) : interpreter_(interpreter) {
  const int most = interpreter_.heap_.meter().limits().max_depth;
  if (interpreter_.depth_ == most) {
    throw Failure("is nested deeper than " + std::to_string(most));
  }
  ++interpreter_.depth_;
}

std::string Interpreter::Render(const Body& body,
                                const std::vector<std::pair<std::string, Value>>& variables) {
  const auto scope = std::make_shared<Scope>(nullptr);
  for (const auto& [name, value] : variables) scope->Set(name, value);
  Output out(heap_.meter(), heap_.meter().limits().max_output_bytes);
  Run(body, scope, out);
  return out.text();
}

Interpreter::Flow Interpreter::Run(const Body& body, const ScopePtr& scope, Output& out) {
  const Nesting nesting(*this);
  for (const auto& node : body) {
    const Flow flow = RunOne(*node, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::RunOne(const Statement& node, const ScopePtr& scope, Output& out) {
  using Kind = Statement::Kind;
  line_ = node.line;
  heap_.meter().Step();
  switch (node.kind) {
    case Kind::kText:
      out.Append(node.text);
      break;
    case Kind::kPrint: {
      const Value value = Evaluate(*node.expression, *scope);
      line_ = node.line;
      if (const Text* text = value.text()) {
        out.Append(text->bytes);
      } else {
        out.Append(ToText(value, heap_.meter()));
      }
      break;
    }
    case Kind::kIf:
      return RunIf(node, scope, out);
    case Kind::kFor:
      return RunFor(node, scope, out);
    case Kind::kSet:
      Assign(node.target, Evaluate(*node.expression, *scope), *scope);
      break;
    case Kind::kSetBlock:
      RunSetBlock(node, scope);
      break;
    case Kind::kMacro:
      scope->Set(node.text, MakeMacro(node, scope));
      break;
    case Kind::kCall:
      RunCall(node, scope, out);
      break;
    case Kind::kFilter: {
      const Value text = Capture(node.body, std::make_shared<Scope>(scope));
      out.Append(ToText(Evaluate(*node.expression, *scope, &text), heap_.meter()));
      break;
    }
    case Kind::kWith:
      RunWith(node, scope, out);
      break;
    case Kind::kScope:
      Run(node.body, std::make_shared<Scope>(scope), out);
      break;
    case Kind::kBreak:
      return Flow::kBreak;
    case Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::RunIf(const Statement& node, const ScopePtr& scope, Output& out) {
  for (const Branch& branch : node.branches) {
    if (branch.condition == nullptr || IsTrue(Evaluate(*branch.condition, *scope))) {
      return Run(branch.body, scope, out);
    }
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::RunFor(const Statement& node, const ScopePtr& scope, Output& out) {
  auto loop = std::make_shared<LoopState>();
  const Value iterated = Evaluate(*node.expression, *scope);
  line_ = node.line;
  loop->items = ItemsOf(heap_, iterated);
  if (loop->depth() > kMaxValueDepth) throw Failure("values are nested too deep");
  if (node.condition != nullptr) {
    loop->condition = [&](const Value& item) {
      const auto own = std::make_shared<Scope>(scope);
      Assign(node.target, item, *own);
      return IsTrue(Evaluate(*node.condition, *own));
    };
  }
  // A template may keep the loop object; what the condition refers to ends here.
  struct End {
    LoopState& loop;
    ~End() { loop.condition = nullptr; }
  } const end{*loop};
  bool any = false;
  Flow flow = Flow::kNext;
  while (flow != Flow::kBreak && loop->Advance()) {
    any = true;
    line_ = node.line;
    heap_.meter().Step();
    const auto own = std::make_shared<Scope>(scope);
    Assign(node.target, loop->current, *own);
    own->Set("loop", Value(loop));
    flow = Run(node.body, own, out);
  }
  if (!any) return Run(node.otherwise, std::make_shared<Scope>(scope), out);
  return Flow::kNext;
}

void Interpreter::RunWith(const Statement& node, const ScopePtr& scope, Output& out) {
  const auto own = std::make_shared<Scope>(scope);
  for (const Parameter& parameter : node.parameters) {
    own->Set(parameter.name, Evaluate(*parameter.value, *scope));
  }
  Run(node.body, own, out);
}

void Interpreter::RunCall(const Statement& node, const ScopePtr& scope, Output& out) {
  const Value caller = MakeMacro(node, scope);
  out.Append(ToText(EvaluateCall(*node.expression, *scope, &caller), heap_.meter()));
}

void Interpreter::RunSetBlock(const Statement& node, const ScopePtr& scope) {
  const Value text = Capture(node.body, std::make_shared<Scope>(scope));
  Assign(node.target, node.expression == nullptr ? text : Evaluate(*node.expression, *scope, &text),
         *scope);
}

Value Interpreter::MakeMacro(const Statement& node, const ScopePtr& scope) {
  kept_.push_back(scope);
  heap_.meter().Take(sizeof(Scope) + 256);
  Callable macro;
  macro.name = node.text.empty() ? "caller" : node.text;
  macro.macro = &node;
  macro.scope = scope.get();
  return heap_.NewCallable(std::move(macro));
}

Value Interpreter::Capture(const Body& body, const ScopePtr& scope) {
  Output out(heap_.meter(), heap_.meter().limits().max_memory_bytes);
  Run(body, scope, out);
  return heap_.NewText(out.text());
}

void Interpreter::Assign(const Target& target, const Value& value, Scope& scope) {
  if (!target.parts.empty()) {
    const auto items = ItemsOf(heap_, value);
    if (items->items.size() != target.parts.size()) {
      throw Failure("wanted " + std::to_string(target.parts.size()) + " values to assign, got " +
                    std::to_string(items->items.size()));
    }
    for (size_t i = 0; i < target.parts.size(); ++i) {
      Assign(target.parts[i], items->items[i], scope);
    }
  } else if (target.attribute.empty()) {
    scope.Set(target.name, value);
  } else {
    const Value* held = scope.Find(target.name);
    if (held == nullptr || held->name_space() == nullptr) {
      throw Failure("cannot assign to an attribute of '" + target.name +
                    "', which is no namespace");
    }
    heap_.SetAttribute(*held->name_space(), target.attribute, value);
  }
}

Value Interpreter::CallMacro(const Callable& macro, const Arguments& arguments,
                             const Value* caller) {
  const Nesting nesting(*this);
  const Statement& node = *macro.macro;
  const auto& parameters = node.parameters;
  if (arguments.positional.size() > parameters.size()) {
    throw Failure("the macro '" + macro.name + "': wanted at most " +
                  std::to_string(parameters.size()) + " arguments, got " +
                  std::to_string(arguments.positional.size()));
  }
  for (const auto& [name, _] : arguments.named) {
    const auto is_it = [&, n = &name](const Parameter& p) { return p.name == *n; };
    if (name != "caller" && std::none_of(parameters.begin(), parameters.end(), is_it)) {
      throw Failure("the macro '" + macro.name + "' has no parameter '" + name + "'");
    }
  }
  const auto own = std::make_shared<Scope>(macro.scope->shared_from_this());
  if (caller != nullptr) own->Set("caller", *caller);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    const Value* given = i < arguments.positional.size() ? &arguments.positional[i] : nullptr;
    for (const auto& [name, value] : arguments.named) {
      if (name == parameter.name) given = &value;
    }
    if (given != nullptr) {
      own->Set(parameter.name, *given);
    } else {
      own->Set(parameter.name, parameter.value == nullptr ? UndefinedNamed(parameter.name)
                                                          : Evaluate(*parameter.value, *own));
    }
  }
  return Capture(node.body, own);
}

}  // namespace fla::chat
