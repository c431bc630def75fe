// Parses the expressions inside tags. Precedence as in Jinja: conditional, or, and, not, comparison, + -, ~, * / // %,
// **, sign, postfix, filters and tests.
#pragma once

#include <string_view>
#include <vector>

#include "model/chat_template/ast.h"
#include "model/chat_template/lexer.h"

namespace restkv::jinja {

/// A place in the tokens of a template.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is_operator(std::string_view op, size_t ahead = 0) const;
  bool is_name(std::string_view name, size_t ahead = 0) const;
  bool skip_operator(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_operator(std::string_view op);
  void expect(TokenKind kind, std::string_view what);
  std::string expect_name();
  [[noreturn]] void unexpected(std::string_view wanted) const;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  ExpressionPtr parse() { return conditional(); }
  /// One expression, or several with commas between them as a tuple.
  ExpressionPtr parse_tuple();
  /// Without the conditional: the iterable of a for-loop, behind which `if` is the filter of the loop.
  ExpressionPtr parse_without_conditional() { return binary_or(); }
  /// The rest of a call behind "(": positional arguments are appended to operands.
  void arguments(Expression& call);

 private:
  ExpressionPtr conditional();
  ExpressionPtr binary_or();
  ExpressionPtr binary_and();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr binary(size_t level);
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr parenthesis();
  ExpressionPtr dictionary();
  ExpressionPtr postfix(ExpressionPtr base);
  ExpressionPtr subscript(ExpressionPtr base);
  ExpressionPtr filters_and_tests(ExpressionPtr base);
  ExpressionPtr test(ExpressionPtr base);
  ExpressionPtr literal_number();

  TokenStream& tokens_;
  int depth_ = 0;
};

ExpressionPtr make_expression(ExpressionKind kind, int line, std::vector<ExpressionPtr> operands = {});
template <class... Operands>
ExpressionPtr make_expression(ExpressionKind kind, int line, ExpressionPtr first, Operands... rest) {
  ExpressionPtr expression = make_expression(kind, line);
  expression->operands.push_back(std::move(first));
  (expression->operands.push_back(std::move(rest)), ...);
  return expression;
}

}  // namespace restkv::jinja
