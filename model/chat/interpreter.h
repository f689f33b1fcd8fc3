// Renders a syntax tree.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat/builtins.h"
#include "model/chat/heap.h"
#include "model/chat/loop_state.h"
#include "model/chat/syntax.h"

namespace fla::chat {

// The variables of a block, and of the blocks around it.
class Scope : public std::enable_shared_from_this<Scope> {
 public:
  explicit Scope(std::shared_ptr<Scope> parent) : parent_(std::move(parent)) {}
  // Null where there is none of that name.
  const Value* Find(std::string_view name) const;
  // `name` must outlive the scope.
  void Set(std::string_view name, Value value);

 private:
  std::shared_ptr<Scope> parent_;
  std::vector<std::pair<std::string_view, Value>> variables_;
};

// Text that is being made, counted while it lives.
class Output {
 public:
  Output(Meter& meter, size_t most) : meter_(meter), most_(most) {}
  ~Output() { meter_.Give(text_.size()); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  void Append(std::string_view text);
  const std::string& text() const { return text_; }

 private:
  Meter& meter_;
  size_t most_;
  std::string text_;
};

// One rendering of one template.
//
// Thread safety: one thread at a time.
class Interpreter {
 public:
  explicit Interpreter(Heap& heap) : heap_(heap) {}

  // Throws Failure; then line() is where.
  std::string Render(const Body& body, const std::vector<std::pair<std::string, Value>>& variables);
  int line() const { return line_; }

 private:
  using ScopePtr = std::shared_ptr<Scope>;
  enum class Flow { kNext, kBreak, kContinue };
  // Bounds the recursion over the tree and through macros.
  class Nesting {
   public:
    explicit Nesting(Interpreter& interpreter);
    ~Nesting() { --interpreter_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Interpreter& interpreter_;
  };

  Flow Run(const Body& body, const ScopePtr& scope, Output& out);
  Flow RunOne(const Statement& node, const ScopePtr& scope, Output& out);
  Flow RunIf(const Statement& node, const ScopePtr& scope, Output& out);
  Flow RunFor(const Statement& node, const ScopePtr& scope, Output& out);
  void RunWith(const Statement& node, const ScopePtr& scope, Output& out);
  void RunCall(const Statement& node, const ScopePtr& scope, Output& out);
  void RunSetBlock(const Statement& node, const ScopePtr& scope);
  Value MakeMacro(const Statement& node, const ScopePtr& scope);
  // What a body prints, as text.
  Value Capture(const Body& body, const ScopePtr& scope);
  void Assign(const Target& target, const Value& value, Scope& scope);

  // `filtered`: what a block's filter applies to.
  Value Evaluate(const Expression& node, Scope& scope, const Value* filtered = nullptr);
  Value EvaluateName(const Expression& node, const Scope& scope) const;
  Value EvaluateItem(const Expression& node, Scope& scope);
  Value EvaluateCall(const Expression& node, Scope& scope, const Value* caller = nullptr);
  Value EvaluateFilter(const Expression& node, Scope& scope, const Value* filtered);
  bool EvaluateTest(const Expression& node, Scope& scope);
  bool EvaluateCompare(const Expression& node, Scope& scope);
  Value EvaluateConcat(const Expression& node, Scope& scope);
  Value EvaluateDict(const Expression& node, Scope& scope);
  Arguments EvaluateArguments(const Expression& node, Scope& scope);
  Value CallMacro(const Callable& macro, const Arguments& arguments, const Value* caller);

  Heap& heap_;
  // Scopes in which macros were defined: a macro may be called when its scope has ended.
  std::deque<ScopePtr> kept_;
  int depth_ = 0;
  int line_ = 1;
};

}  // namespace fla::chat
