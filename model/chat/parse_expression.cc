#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "model/chat/builtins.h"
#include "model/chat/parser.h"

namespace fla::chat {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxNesting = 100;          // of what is written within each other
constexpr int kMaxExpressionDepth = 200;  // of the tree, in which a + b + c is as deep as long

ExpressionPtr Make(Kind kind, int line, std::string name = "") {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  node->name = std::move(name);
  return node;
}

void AddOperand(Expression& node, ExpressionPtr operand) {
  if (operand != nullptr) node.depth = std::max(node.depth, operand->depth + 1);
  if (node.depth > kMaxExpressionDepth) {
    throw SyntaxError(node.line, "an expression deeper than " +
                                     std::to_string(kMaxExpressionDepth) + " is not supported");
  }
  node.operands.push_back(std::move(operand));
}

ExpressionPtr Constant(int line, Value value) {
  ExpressionPtr node = Make(Kind::kConstant, line);
  node->value = std::move(value);
  return node;
}

ExpressionPtr Number(const Token& token) {
  const std::string& text = token.text;
  if (token.kind == Token::Kind::kFloat) {
    return Constant(token.line, Value(std::strtod(text.c_str(), nullptr)));
  }
  const char letter = text.size() > 2 ? static_cast<char>(text[1] | 0x20) : ' ';
  const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
  int64_t number = 0;
  const char* begin = text.data() + (base == 10 ? 0 : 2);
  const auto result = std::from_chars(begin, text.data() + text.size(), number, base);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) {
    throw SyntaxError(token.line, "wanted an integer of 64 bits, got " + text);
  }
  return Constant(token.line, Value(number));
}

}  // namespace

// Counts what the recursive functions are within.
class ExpressionParser::Nesting {
 public:
  explicit Nesting(ExpressionParser& parser) : parser_(parser) {
    if (++parser_.nesting_ > kMaxNesting) {
      throw SyntaxError(parser_.tokens_.Peek().line,
                        "nesting deeper than " + std::to_string(kMaxNesting) + " is not supported");
    }
  }
  ~Nesting() { --parser_.nesting_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  ExpressionParser& parser_;
};

ExpressionPtr ExpressionParser::ParseExpression(bool with_condition) {
  const Nesting nesting(*this);
  ExpressionPtr value = ParseOr();
  while (with_condition && tokens_.IsName("if")) {
    ExpressionPtr node = Make(Kind::kCondition, tokens_.Next().line);
    AddOperand(*node, ParseOr());
    AddOperand(*node, std::move(value));
    AddOperand(*node, tokens_.SkipName("else") ? ParseExpression() : nullptr);
    value = std::move(node);
  }
  return value;
}

ExpressionPtr ExpressionParser::ParseTuple(bool with_condition, std::string_view end) {
  const int line = tokens_.Peek().line;
  const auto at_end = [&] {
    return tokens_.Is(Token::Kind::kVariableEnd) || tokens_.Is(Token::Kind::kBlockEnd) ||
           tokens_.IsOperator(")") || (!end.empty() && tokens_.IsName(end));
  };
  ExpressionPtr first = ParseExpression(with_condition);
  if (!tokens_.IsOperator(",")) return first;
  ExpressionPtr tuple = Make(Kind::kTuple, line);
  AddOperand(*tuple, std::move(first));
  while (tokens_.SkipOperator(",") && !at_end())
    AddOperand(*tuple, ParseExpression(with_condition));
  return tuple;
}

ExpressionPtr ExpressionParser::ParseOr() {
  ExpressionPtr left = ParseAnd();
  while (tokens_.IsName("or")) {
    ExpressionPtr node = Make(Kind::kOr, tokens_.Next().line);
    AddOperand(*node, std::move(left));
    AddOperand(*node, ParseAnd());
    left = std::move(node);
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseAnd() {
  ExpressionPtr left = ParseNot();
  while (tokens_.IsName("and")) {
    ExpressionPtr node = Make(Kind::kAnd, tokens_.Next().line);
    AddOperand(*node, std::move(left));
    AddOperand(*node, ParseNot());
    left = std::move(node);
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseNot() {
  if (!tokens_.IsName("not")) return ParseCompare();
  const Nesting nesting(*this);
  ExpressionPtr node = Make(Kind::kNot, tokens_.Next().line);
  AddOperand(*node, ParseNot());
  return node;
}

ExpressionPtr ExpressionParser::ParseCompare() {
  ExpressionPtr first = ParseSum();
  ExpressionPtr node;
  while (true) {
    std::string found;
    for (const std::string_view text : {"==", "!=", "<", "<=", ">", ">="}) {
      if (tokens_.IsOperator(text)) found = text;
    }
    if (tokens_.IsName("in")) found = "in";
    if (tokens_.IsName("not") && tokens_.IsName("in", 1)) found = "not in";
    if (found.empty()) break;
    const int line = tokens_.Next().line;
    if (found == "not in") tokens_.Next();
    if (node == nullptr) {
      node = Make(Kind::kCompare, line);
      AddOperand(*node, std::move(first));
    }
    node->names.push_back(std::move(found));
    AddOperand(*node, ParseSum());
  }
  return node == nullptr ? std::move(first) : std::move(node);
}

ExpressionPtr ExpressionParser::ParseBinary(std::initializer_list<std::string_view> operators,
                                            ExpressionPtr (ExpressionParser::*parse)()) {
  ExpressionPtr left = (this->*parse)();
  while (std::any_of(operators.begin(), operators.end(),
                     [&](std::string_view text) { return tokens_.IsOperator(text); })) {
    const Token token = tokens_.Next();
    ExpressionPtr node = Make(Kind::kBinary, token.line, token.text);
    AddOperand(*node, std::move(left));
    AddOperand(*node, (this->*parse)());
    left = std::move(node);
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseSum() {
  return ParseBinary({"+", "-"}, &ExpressionParser::ParseConcat);
}

ExpressionPtr ExpressionParser::ParseConcat() {
  ExpressionPtr first = ParseProduct();
  if (!tokens_.IsOperator("~")) return first;
  ExpressionPtr node = Make(Kind::kConcat, tokens_.Peek().line);
  AddOperand(*node, std::move(first));
  while (tokens_.SkipOperator("~")) AddOperand(*node, ParseProduct());
  return node;
}

ExpressionPtr ExpressionParser::ParseProduct() {
  return ParseBinary({"*", "/", "//", "%"}, &ExpressionParser::ParsePower);
}

ExpressionPtr ExpressionParser::ParsePower() {
  ExpressionPtr left = ParseUnary();
  while (tokens_.IsOperator("**")) {  // from the left, unlike Python
    ExpressionPtr node = Make(Kind::kBinary, tokens_.Next().line, "**");
    AddOperand(*node, std::move(left));
    AddOperand(*node, ParseUnary());
    left = std::move(node);
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseUnary(bool with_filters) {
  ExpressionPtr node;
  if (tokens_.IsOperator("-") || tokens_.IsOperator("+")) {
    const Nesting nesting(*this);
    const Token sign = tokens_.Next();
    node = Make(sign.text == "-" ? Kind::kNegate : Kind::kPlus, sign.line);
    AddOperand(*node, ParseUnary(false));
  } else {
    node = ParsePrimary();
  }
  node = ParsePostfix(std::move(node));
  return with_filters ? ParseFilters(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::ParsePrimary() {
  const int line = tokens_.Peek().line;
  switch (tokens_.Peek().kind) {
    case Token::Kind::kName: {
      std::string name = tokens_.Next().text;
      if (name == "true" || name == "True") return Constant(line, Value(true));
      if (name == "false" || name == "False") return Constant(line, Value(false));
      if (name == "none" || name == "None") return Constant(line, Value(None{}));
      return Make(Kind::kName, line, std::move(name));
    }
    case Token::Kind::kString: {
      std::string text;
      while (tokens_.Is(Token::Kind::kString)) text += tokens_.Next().text;
      return Constant(line, MakeText(std::move(text)));
    }
    case Token::Kind::kInteger:
    case Token::Kind::kFloat:
      return Number(tokens_.Next());
    default:
      if (tokens_.IsOperator("(")) return ParseParenthesised();
      if (tokens_.IsOperator("[")) return ParseList();
      if (tokens_.IsOperator("{")) return ParseDict();
      tokens_.Fail("an expression");
  }
}

ExpressionPtr ExpressionParser::ParseParenthesised() {
  const int line = tokens_.Next().line;
  ExpressionPtr node = tokens_.IsOperator(")") ? Make(Kind::kTuple, line) : ParseTuple();
  tokens_.ExpectOperator(")");
  return node;
}

ExpressionPtr ExpressionParser::ParseList() {
  ExpressionPtr list = Make(Kind::kList, tokens_.Next().line);
  while (!tokens_.IsOperator("]")) {
    AddOperand(*list, ParseExpression());
    if (!tokens_.SkipOperator(",")) break;
  }
  tokens_.ExpectOperator("]");
  return list;
}

ExpressionPtr ExpressionParser::ParseDict() {
  ExpressionPtr dict = Make(Kind::kDict, tokens_.Next().line);
  while (!tokens_.IsOperator("}")) {
    AddOperand(*dict, ParseExpression());
    tokens_.ExpectOperator(":");
    AddOperand(*dict, ParseExpression());
    if (!tokens_.SkipOperator(",")) break;
  }
  tokens_.ExpectOperator("}");
  return dict;
}

ExpressionPtr ExpressionParser::ParsePostfix(ExpressionPtr object) {
  while (true) {
    if (tokens_.IsOperator(".") || tokens_.IsOperator("[")) {
      object = ParseSubscript(std::move(object));
    } else if (tokens_.IsOperator("(")) {
      ExpressionPtr call = Make(Kind::kCall, tokens_.Peek().line);
      AddOperand(*call, std::move(object));
      ParseArguments(*call);
      object = std::move(call);
    } else {
      return object;
    }
  }
}

ExpressionPtr ExpressionParser::ParseSubscript(ExpressionPtr object) {
  const Token token = tokens_.Next();
  if (token.text == "." && tokens_.Is(Token::Kind::kName)) {
    ExpressionPtr node = Make(Kind::kAttribute, token.line, tokens_.Next().text);
    AddOperand(*node, std::move(object));
    return node;
  }
  ExpressionPtr node = Make(Kind::kItem, token.line);
  AddOperand(*node, std::move(object));
  if (token.text == ".") {
    if (!tokens_.Is(Token::Kind::kInteger)) tokens_.Fail("a name or a number");
    AddOperand(*node, Number(tokens_.Next()));
    return node;
  }
  AddOperand(*node, ParseIndex());
  tokens_.ExpectOperator("]");
  return node;
}

ExpressionPtr ExpressionParser::ParseIndex() {
  const int line = tokens_.Peek().line;
  ExpressionPtr first;
  if (!tokens_.IsOperator(":")) {
    first = ParseExpression();
    if (!tokens_.IsOperator(":")) return first;
  }
  ExpressionPtr slice = Make(Kind::kSlice, line);
  AddOperand(*slice, std::move(first));
  for (int i = 0; i < 2; ++i) {
    ExpressionPtr bound;
    if (tokens_.SkipOperator(":") && !tokens_.IsOperator(":") && !tokens_.IsOperator("]")) {
      bound = ParseExpression();
    }
    AddOperand(*slice, std::move(bound));
  }
  return slice;
}

ExpressionPtr ExpressionParser::ParseFilters(ExpressionPtr value) {
  while (true) {
    if (tokens_.SkipOperator("|")) {
      value = ParseFilter(std::move(value));
    } else if (tokens_.IsName("is")) {
      value = ParseTest(std::move(value));
    } else if (tokens_.IsOperator("(")) {
      ExpressionPtr call = Make(Kind::kCall, tokens_.Peek().line);
      AddOperand(*call, std::move(value));
      ParseArguments(*call);
      value = std::move(call);
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::ParseBlockFilters(bool inline_first) {
  ExpressionPtr value;
  while (inline_first || tokens_.SkipOperator("|")) {
    inline_first = false;
    value = ParseFilter(std::move(value));
  }
  return value;
}

ExpressionPtr ExpressionParser::ParseFilter(ExpressionPtr value) {
  const int line = tokens_.Peek().line;
  ExpressionPtr node = Make(Kind::kFilter, line, tokens_.ExpectAnyName());
  if (FindFilter(node->name) == nullptr) {
    throw SyntaxError(line, "the filter '" + node->name + "' is not supported");
  }
  AddOperand(*node, std::move(value));
  if (tokens_.IsOperator("(")) ParseArguments(*node);
  return node;
}

ExpressionPtr ExpressionParser::ParseTest(ExpressionPtr value) {
  const int line = tokens_.Next().line;
  const bool negated = tokens_.SkipName("not");
  ExpressionPtr node = Make(Kind::kTest, line, tokens_.ExpectAnyName());
  if (FindTest(node->name) == nullptr) {
    throw SyntaxError(line, "the test '" + node->name + "' is not supported");
  }
  AddOperand(*node, std::move(value));
  const Token& next = tokens_.Peek();
  const bool is_operand =
      next.kind == Token::Kind::kString || next.kind == Token::Kind::kInteger ||
      next.kind == Token::Kind::kFloat || tokens_.IsOperator("[") || tokens_.IsOperator("{") ||
      // As in Jinja, any name but these: `x is defined if y` is not what it seems.
      (next.kind == Token::Kind::kName && next.text != "else" && next.text != "or" &&
       next.text != "and");
  if (tokens_.IsOperator("(")) {
    ParseArguments(*node);
  } else if (is_operand) {
    if (tokens_.IsName("is")) tokens_.Fail("one test after another in parentheses");
    AddOperand(*node, ParsePostfix(ParsePrimary()));
  }
  if (!negated) return node;
  ExpressionPtr negation = Make(Kind::kNot, line);
  AddOperand(*negation, std::move(node));
  return negation;
}

void ExpressionParser::ParseArguments(Expression& call) {
  tokens_.ExpectOperator("(");
  while (!tokens_.IsOperator(")")) {
    if (tokens_.IsOperator("*") || tokens_.IsOperator("**")) {
      throw SyntaxError(tokens_.Peek().line, "arguments with * or ** are not supported");
    }
    if (tokens_.Is(Token::Kind::kName) && tokens_.IsOperator("=", 1)) {
      call.names.push_back(tokens_.Next().text);
      tokens_.Next();
    } else if (!call.names.empty()) {
      tokens_.Fail("an argument with a name");
    }
    AddOperand(call, ParseExpression());
    if (!tokens_.SkipOperator(",")) break;
  }
  tokens_.ExpectOperator(")");
}

Target ExpressionParser::ParseTargetPart(bool with_attributes) {
  if (tokens_.IsOperator("(")) {
    const Nesting nesting(*this);
    tokens_.Next();
    Target target = ParseTarget("", with_attributes);
    tokens_.ExpectOperator(")");
    return target;
  }
  Target target;
  target.name = tokens_.ExpectAnyName();
  static constexpr std::string_view kReserved[] = {"true", "false", "none",
                                                   "True", "False", "None"};
  if (std::find(std::begin(kReserved), std::end(kReserved), target.name) != std::end(kReserved)) {
    tokens_.Fail("something else to assign to than " + target.name);
  }
  if (with_attributes && tokens_.SkipOperator(".")) target.attribute = tokens_.ExpectAnyName();
  return target;
}

Target ExpressionParser::ParseTarget(std::string_view end, bool with_attributes) {
  Target first = ParseTargetPart(with_attributes);
  if (!tokens_.IsOperator(",")) return first;
  Target all;
  all.parts.push_back(std::move(first));
  while (tokens_.SkipOperator(",")) {
    if (tokens_.IsName(end) || tokens_.IsOperator("=") || tokens_.IsOperator(")")) break;
    all.parts.push_back(ParseTargetPart(with_attributes));
  }
  return all;
}

}  // namespace fla::chat
