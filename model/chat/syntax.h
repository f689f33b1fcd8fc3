// The syntax tree of a template.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat/value.h"

namespace fla::chat {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kConstant,   // value
    kName,       // name
    kAttribute,  // operands: object; name
    kItem,       // operands: object, index
    kSlice,      // operands: from, to, step, each null where it is not said; only as an index
    kCall,       // operands: function, arguments
    kFilter,     // name; operands: what is filtered (null: the block's text), arguments
    kTest,       // name; operands: what is tested, arguments
    kNot,
    kNegate,
    kPlus,
    kAnd,
    kOr,
    kBinary,     // name: + - * / // % **
    kCompare,    // operands: first, second, ...; names: the operators between them
    kConcat,     // ~
    kCondition,  // operands: condition, then, else (null: undefined)
    kList,
    kTuple,
    kDict,  // operands: key, value, key, value, ...
  };
  Kind kind;
  int line;
  std::string name;
  Value value;
  std::vector<ExpressionPtr> operands;
  // Of a call, filter or test: the names of its last operands, which are given by name.
  std::vector<std::string> names;
  int depth = 1;  // of the tree
};

// What a value is assigned to: a name, an attribute of a namespace, or several for its items.
struct Target {
  std::string name;
  std::string attribute;      // empty: the name itself
  std::vector<Target> parts;  // not empty: each takes one item
};

struct Parameter {
  std::string name;
  ExpressionPtr value;  // of a macro: its default, null where it has none
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Branch {
  ExpressionPtr condition;  // null: else
  Body body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kPrint,     // expression
    kIf,        // branches
    kFor,       // target, expression, condition; body, otherwise
    kSet,       // target, expression
    kSetBlock,  // target, body; expression: a filter or null
    kMacro,     // text: its name; parameters, body
    kCall,      // expression: a call; parameters and body of `caller`
    kFilter,    // expression: a filter; body
    kWith,      // parameters, body
    kScope,     // body, in a scope of its own
    kBreak,
    kContinue,
  };
  Kind kind;
  int line;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  Target target;
  std::vector<Parameter> parameters;
  std::vector<Branch> branches;
  Body body;
  Body otherwise;
};

// Throws SyntaxError for what Jinja does not have and for what this engine does not have of it.
Body Parse(std::string_view source);

}  // namespace fla::chat
