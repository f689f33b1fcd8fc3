// The grammar of Jinja, by recursive descent.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat/lexer.h"
#include "model/chat/syntax.h"

namespace fla::chat {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& Peek(size_t ahead = 0) const;
  Token Next();
  bool IsOperator(std::string_view text, size_t ahead = 0) const;
  bool IsName(std::string_view text, size_t ahead = 0) const;
  bool Is(Token::Kind kind) const { return Peek().kind == kind; }
  bool SkipOperator(std::string_view text);
  bool SkipName(std::string_view text);
  void ExpectOperator(std::string_view text);
  void ExpectName(std::string_view text);
  void Expect(Token::Kind kind);
  std::string ExpectAnyName();
  // "line 3: wanted ..., got ...", of the next token.
  [[noreturn]] void Fail(const std::string& wanted) const;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  ExpressionPtr ParseExpression(bool with_condition = true);
  // Several expressions with commas between them are a tuple. `end`: the name that ends it.
  ExpressionPtr ParseTuple(bool with_condition = true, std::string_view end = "");
  // Filters on what a block gives; null where there are none. `inline_first`: without the first |.
  ExpressionPtr ParseBlockFilters(bool inline_first);
  Target ParseTarget(std::string_view end, bool with_attributes);

 private:
  class Nesting;

  ExpressionPtr ParseOr();
  ExpressionPtr ParseAnd();
  ExpressionPtr ParseNot();
  ExpressionPtr ParseCompare();
  ExpressionPtr ParseSum();
  ExpressionPtr ParseConcat();
  ExpressionPtr ParseProduct();
  ExpressionPtr ParsePower();
  ExpressionPtr ParseUnary(bool with_filters = true);
  ExpressionPtr ParsePrimary();
  ExpressionPtr ParseParenthesised();
  ExpressionPtr ParseList();
  ExpressionPtr ParseDict();
  ExpressionPtr ParsePostfix(ExpressionPtr object);
  ExpressionPtr ParseSubscript(ExpressionPtr object);
  ExpressionPtr ParseIndex();
  ExpressionPtr ParseFilters(ExpressionPtr value);
  ExpressionPtr ParseFilter(ExpressionPtr value);
  ExpressionPtr ParseTest(ExpressionPtr value);
  void ParseArguments(Expression& call);
  ExpressionPtr ParseBinary(std::initializer_list<std::string_view> operators,
                            ExpressionPtr (ExpressionParser::*parse)());
  Target ParseTargetPart(bool with_attributes);

  TokenStream& tokens_;
  int nesting_ = 0;
};

}  // namespace fla::chat
