#include <algorithm>
#include <optional>

#include "model/chat/parser.h"

namespace fla::chat {

const Token& TokenStream::Peek(size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

Token TokenStream::Next() {
  Token token = Peek();
  ++at_;
  return token;
}

bool TokenStream::IsOperator(std::string_view text, size_t ahead) const {
  return Peek(ahead).kind == Token::Kind::kOperator && Peek(ahead).text == text;
}

bool TokenStream::IsName(std::string_view text, size_t ahead) const {
  return Peek(ahead).kind == Token::Kind::kName && Peek(ahead).text == text;
}

bool TokenStream::SkipOperator(std::string_view text) {
  if (!IsOperator(text)) return false;
  ++at_;
  return true;
}

bool TokenStream::SkipName(std::string_view text) {
  if (!IsName(text)) return false;
  ++at_;
  return true;
}

void TokenStream::ExpectOperator(std::string_view text) {
  if (!SkipOperator(text)) Fail("'" + std::string(text) + "'");
}

void TokenStream::ExpectName(std::string_view text) {
  if (!SkipName(text)) Fail(std::string(text));
}

void TokenStream::Expect(Token::Kind kind) {
  if (!Is(kind)) Fail(kind == Token::Kind::kBlockEnd ? "%}" : "}}");
  ++at_;
}

std::string TokenStream::ExpectAnyName() {
  if (!Is(Token::Kind::kName)) Fail("a name");
  return Next().text;
}

void TokenStream::Fail(const std::string& wanted) const {
  const Token& token = Peek();
  std::string got;
  switch (token.kind) {
    case Token::Kind::kText:
      got = "text";
      break;
    case Token::Kind::kVariableBegin:
      got = "{{";
      break;
    case Token::Kind::kVariableEnd:
      got = "}}";
      break;
    case Token::Kind::kBlockBegin:
      got = "{%";
      break;
    case Token::Kind::kBlockEnd:
      got = "%}";
      break;
    case Token::Kind::kEnd:
      got = "the end";
      break;
    case Token::Kind::kString:
      got = "a string";
      break;
    default:
      got = "'" + token.text + "'";
  }
  throw SyntaxError(token.line, "wanted " + wanted + ", got " + got);
}

namespace {

using Kind = Statement::Kind;

constexpr int kMaxBlocks = 100;  // within each other

class StatementParser {
 public:
  explicit StatementParser(std::string_view source)
      : tokens_(Tokenize(source)), expressions_(tokens_) {}

  Body ParseAll() {
    Body body = ParseBody({});
    return body;
  }

 private:
  std::unique_ptr<Statement> Make(Kind kind, int line) {
    auto node = std::make_unique<Statement>();
    node->kind = kind;
    node->line = line;
    return node;
  }

  bool IsOneOf(const std::vector<std::string_view>& names) const {
    return std::any_of(names.begin(), names.end(),
                       [&](std::string_view name) { return tokens_.IsName(name); });
  }

  // Up to a block that begins with one of `ends`, whose name is then the next token; without any,
  // up to the end of the template.
  Body ParseBody(const std::vector<std::string_view>& ends) {
    if (++blocks_ > kMaxBlocks) {
      throw SyntaxError(tokens_.Peek().line, "blocks nested deeper than " +
                                                 std::to_string(kMaxBlocks) + " are not supported");
    }
    Body body;
    while (!tokens_.Is(Token::Kind::kEnd)) {
      const Token token = tokens_.Next();
      if (token.kind == Token::Kind::kText) {
        body.push_back(Make(Kind::kText, token.line));
        body.back()->text = token.text;
      } else if (token.kind == Token::Kind::kVariableBegin) {
        body.push_back(Make(Kind::kPrint, token.line));
        body.back()->expression = expressions_.ParseTuple();
        tokens_.Expect(Token::Kind::kVariableEnd);
      } else {
        if (IsOneOf(ends)) {
          --blocks_;
          return body;
        }
        ParseStatement(body);
        tokens_.Expect(Token::Kind::kBlockEnd);
      }
    }
    if (!ends.empty()) tokens_.Fail("{% " + std::string(ends.back()) + " %}");
    --blocks_;
    return body;
  }

  // The body of a block that has begun, and the name that ends it.
  Body ParseBlock(const std::vector<std::string_view>& ends) {
    tokens_.SkipOperator(":");
    tokens_.Expect(Token::Kind::kBlockEnd);
    return ParseBody(ends);
  }

  Body ParseWholeBlock(std::string_view end) {
    Body body = ParseBlock({end});
    tokens_.Next();
    return body;
  }

  // A function's body: break and continue do not reach out of it.
  Body ParseFunctionBlock(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = ParseWholeBlock(end);
    loops_ = loops;
    return body;
  }

  void ParseStatement(Body& body) {
    const int line = tokens_.Peek().line;
    if (!tokens_.Is(Token::Kind::kName)) tokens_.Fail("the name of a tag");
    const std::string name = tokens_.Next().text;
    if (name == "print") return ParsePrint(body, line);
    std::unique_ptr<Statement> node = Make(Kind::kScope, line);
    if (name == "if") {
      ParseIf(*node);
    } else if (name == "for") {
      ParseFor(*node);
    } else if (name == "set") {
      ParseSet(*node);
    } else if (name == "macro") {
      node->kind = Kind::kMacro;
      node->text = tokens_.ExpectAnyName();
      ParseParameters(*node);
      node->body = ParseFunctionBlock("endmacro");
    } else if (name == "call") {
      node->kind = Kind::kCall;
      if (tokens_.IsOperator("(")) ParseParameters(*node);
      node->expression = expressions_.ParseExpression();
      if (node->expression->kind != Expression::Kind::kCall) {
        throw SyntaxError(line, "wanted a call after {% call, got another expression");
      }
      node->body = ParseFunctionBlock("endcall");
    } else if (name == "filter") {
      node->kind = Kind::kFilter;
      node->expression = expressions_.ParseBlockFilters(true);
      node->body = ParseWholeBlock("endfilter");
    } else if (name == "with") {
      ParseWith(*node);
    } else if (name == "generation") {  // transformers' mark around what the model has to learn
      node->body = ParseFunctionBlock("endgeneration");
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) throw SyntaxError(line, "{% " + name + " %} outside of a loop");
      node->kind = name == "break" ? Kind::kBreak : Kind::kContinue;
    } else {
      throw SyntaxError(line, "the tag '" + name + "' is not supported here");
    }
    body.push_back(std::move(node));
  }

  void ParsePrint(Body& body, int line) {
    bool first = true;
    while (!tokens_.Is(Token::Kind::kBlockEnd)) {
      if (!first) tokens_.ExpectOperator(",");
      first = false;
      body.push_back(Make(Kind::kPrint, line));
      body.back()->expression = expressions_.ParseExpression();
    }
  }

  void ParseIf(Statement& node) {
    node.kind = Kind::kIf;
    while (true) {
      Branch branch;
      branch.condition = expressions_.ParseTuple(false);
      branch.body = ParseBlock({"elif", "else", "endif"});
      node.branches.push_back(std::move(branch));
      if (tokens_.SkipName("elif")) continue;
      const bool has_else = tokens_.IsName("else");
      tokens_.Next();
      if (has_else) node.branches.push_back({nullptr, ParseWholeBlock("endif")});
      return;
    }
  }

  void ParseFor(Statement& node) {
    node.kind = Kind::kFor;
    node.target = expressions_.ParseTarget("in", false);
    tokens_.ExpectName("in");
    node.expression = expressions_.ParseTuple(false, "recursive");
    if (tokens_.SkipName("if")) node.condition = expressions_.ParseExpression();
    if (tokens_.IsName("recursive")) {
      throw SyntaxError(node.line, "recursive loops are not supported");
    }
    ++loops_;
    node.body = ParseBlock({"else", "endfor"});
    --loops_;
    if (tokens_.Next().text == "else") node.otherwise = ParseWholeBlock("endfor");
  }

  void ParseSet(Statement& node) {
    node.target = expressions_.ParseTarget("", true);
    if (tokens_.SkipOperator("=")) {
      node.kind = Kind::kSet;
      node.expression = expressions_.ParseTuple();
      return;
    }
    node.kind = Kind::kSetBlock;
    node.expression = expressions_.ParseBlockFilters(false);
    node.body = ParseWholeBlock("endset");
  }

  void ParseWith(Statement& node) {
    node.kind = Kind::kWith;
    while (!tokens_.Is(Token::Kind::kBlockEnd)) {
      if (!node.parameters.empty()) tokens_.ExpectOperator(",");
      Parameter parameter;
      parameter.name = tokens_.ExpectAnyName();
      tokens_.ExpectOperator("=");
      parameter.value = expressions_.ParseExpression();
      node.parameters.push_back(std::move(parameter));
    }
    node.body = ParseWholeBlock("endwith");
  }

  void ParseParameters(Statement& node) {
    tokens_.ExpectOperator("(");
    while (!tokens_.IsOperator(")")) {
      if (!node.parameters.empty()) tokens_.ExpectOperator(",");
      Parameter parameter;
      parameter.name = tokens_.ExpectAnyName();
      if (tokens_.SkipOperator("=")) {
        parameter.value = expressions_.ParseExpression();
      } else if (!node.parameters.empty() && node.parameters.back().value != nullptr) {
        tokens_.Fail("a default, as the parameter before has one");
      }
      node.parameters.push_back(std::move(parameter));
    }
    tokens_.Next();
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int blocks_ = 0;
  int loops_ = 0;
};

}  // namespace

Body Parse(std::string_view source) { return StatementParser(source).ParseAll(); }

}  // namespace fla::chat
