#include "model/chat_template/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>

#include "model/chat_template/error.h"

namespace restkv::jinja {

using Kind = ExpressionKind;

bool TokenStream::is_operator(std::string_view op, size_t ahead) const {
  return peek(ahead).kind == TokenKind::kOperator && peek(ahead).text == op;
}

bool TokenStream::is_name(std::string_view name, size_t ahead) const {
  return peek(ahead).kind == TokenKind::kName && peek(ahead).text == name;
}

bool TokenStream::skip_operator(std::string_view op) { return is_operator(op) && (next(), true); }

bool TokenStream::skip_name(std::string_view name) { return is_name(name) && (next(), true); }

void TokenStream::expect_operator(std::string_view op) {
  if (!skip_operator(op)) unexpected(fmt::format("'{}'", op));
}

void TokenStream::expect(TokenKind kind, std::string_view what) {
  if (peek().kind != kind) unexpected(what);
  next();
}

std::string TokenStream::expect_name() {
  if (peek().kind != TokenKind::kName) unexpected("a name");
  return next().text;
}

void TokenStream::unexpected(std::string_view wanted) const {
  const Token& token = peek();
  switch (token.kind) {
    case TokenKind::kEnd: fail_at(token.line, "the template ends where {} was expected", wanted);
    case TokenKind::kOutputEnd: fail_at(token.line, "found '}}}}' where {} was expected", wanted);
    case TokenKind::kTagEnd: fail_at(token.line, "found '%}}' where {} was expected", wanted);
    default: fail_at(token.line, "found '{}' where {} was expected", token.text, wanted);
  }
}

ExpressionPtr make_expression(Kind kind, int line, std::vector<ExpressionPtr> operands) {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  expression->operands = std::move(operands);
  return expression;
}

namespace {

constexpr int kMaxDepth = 200;  // of nesting; bounds the stack

class DepthGuard {
 public:
  DepthGuard(int& depth, int line) : depth_(depth) {
    if (++depth_ > kMaxDepth) fail_at(line, "expressions are nested too deeply");
  }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

ExpressionPtr make_literal(Value value, int line) {
  ExpressionPtr literal = make_expression(Kind::kLiteral, line);
  literal->literal = std::move(value);
  return literal;
}

}  // namespace

ExpressionPtr ExpressionParser::parse_tuple() {
  const int line = tokens_.peek().line;
  ExpressionPtr first = parse();
  if (!tokens_.is_operator(",")) return first;
  ExpressionPtr tuple = make_expression(Kind::kTuple, line, std::move(first));
  while (tokens_.skip_operator(",")) {
    const TokenKind next = tokens_.peek().kind;
    if (next == TokenKind::kTagEnd || next == TokenKind::kOutputEnd || tokens_.is_operator(")")) break;
    tuple->operands.push_back(parse());
  }
  return tuple;
}

ExpressionPtr ExpressionParser::conditional() {
  const int line = tokens_.peek().line;
  const DepthGuard guard(depth_, line);
  ExpressionPtr value = binary_or();
  while (tokens_.skip_name("if")) {
    ExpressionPtr condition = binary_or();
    ExpressionPtr otherwise = tokens_.skip_name("else") ? conditional() : nullptr;
    value = make_expression(Kind::kConditional, line, std::move(value), std::move(condition), std::move(otherwise));
  }
  return value;
}

// A chain of one operator leans to the left, and a long one would be a deep tree: the chains are kept flat, as the
// operands of one expression.
ExpressionPtr ExpressionParser::binary_or() {
  const int line = tokens_.peek().line;
  ExpressionPtr value = binary_and();
  if (!tokens_.is_name("or")) return value;
  value = make_expression(Kind::kOr, line, std::move(value));
  while (tokens_.skip_name("or")) value->operands.push_back(binary_and());
  return value;
}

ExpressionPtr ExpressionParser::binary_and() {
  const int line = tokens_.peek().line;
  ExpressionPtr value = negation();
  if (!tokens_.is_name("and")) return value;
  value = make_expression(Kind::kAnd, line, std::move(value));
  while (tokens_.skip_name("and")) value->operands.push_back(negation());
  return value;
}

ExpressionPtr ExpressionParser::negation() {
  const int line = tokens_.peek().line;
  const DepthGuard guard(depth_, line);
  if (tokens_.skip_name("not")) return make_expression(Kind::kNot, line, negation());
  return comparison();
}

ExpressionPtr ExpressionParser::comparison() {
  const int line = tokens_.peek().line;
  ExpressionPtr value = binary(0);
  ExpressionPtr chain;
  while (true) {
    std::string op;
    for (const char* symbol : {"==", "!=", "<", "<=", ">", ">="})
      if (tokens_.is_operator(symbol)) op = symbol;
    if (tokens_.is_name("in")) op = "in";
    if (tokens_.is_name("not") && tokens_.is_name("in", 1)) op = "not in";
    if (op.empty()) return chain ? std::move(chain) : std::move(value);
    tokens_.next();
    if (op == "not in") tokens_.next();
    if (!chain) chain = make_expression(Kind::kCompare, line, std::move(value));
    chain->names.push_back(op);
    chain->operands.push_back(binary(0));
  }
}

// Levels: + and -, ~, * / // %, **. A binary expression has names[i] between operands[i] and operands[i + 1].
ExpressionPtr ExpressionParser::binary(size_t level) {
  static const std::vector<std::vector<const char*>> kLevels = {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}};
  if (level == kLevels.size()) return unary(true);
  const int line = tokens_.peek().line;
  ExpressionPtr value = binary(level + 1);
  ExpressionPtr chain;
  while (true) {
    const char* found = nullptr;
    for (const char* op : kLevels[level])
      if (tokens_.is_operator(op)) found = op;
    if (!found) return chain ? std::move(chain) : std::move(value);
    tokens_.next();
    if (!chain) chain = make_expression(Kind::kBinary, line, std::move(value));
    chain->names.emplace_back(found);
    chain->operands.push_back(binary(level + 1));
  }
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const int line = tokens_.peek().line;
  const DepthGuard guard(depth_, line);
  ExpressionPtr value;
  if (tokens_.skip_operator("-")) {
    value = make_expression(Kind::kNegate, line, unary(false));
  } else if (tokens_.skip_operator("+")) {
    value = make_expression(Kind::kPlus, line, unary(false));
  } else {
    value = primary();
  }
  value = postfix(std::move(value));
  return with_filters ? filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  const Token token = tokens_.peek();
  if (token.kind == TokenKind::kName) {
    tokens_.next();
    if (token.text == "true" || token.text == "True") return make_literal(true, token.line);
    if (token.text == "false" || token.text == "False") return make_literal(false, token.line);
    if (token.text == "none" || token.text == "None") return make_literal(None{}, token.line);
    ExpressionPtr name = make_expression(Kind::kName, token.line);
    name->name = token.text;
    return name;
  }
  if (token.kind == TokenKind::kString) {
    std::string text;
    while (tokens_.peek().kind == TokenKind::kString) text += tokens_.next().text;
    return make_literal(std::move(text), token.line);
  }
  if (token.kind == TokenKind::kInteger || token.kind == TokenKind::kFloat) return literal_number();
  if (tokens_.skip_operator("(")) return parenthesis();
  if (tokens_.skip_operator("{")) return dictionary();
  if (!tokens_.skip_operator("[")) tokens_.unexpected("a value");
  ExpressionPtr list = make_expression(Kind::kList, token.line);
  while (!tokens_.skip_operator("]")) {
    if (!list->operands.empty()) {
      tokens_.expect_operator(",");
      if (tokens_.skip_operator("]")) break;
    }
    list->operands.push_back(parse());
  }
  return list;
}

ExpressionPtr ExpressionParser::literal_number() {
  const Token token = tokens_.next();
  const char* end = token.text.data() + token.text.size();
  if (token.kind == TokenKind::kInteger) {
    int64_t value = 0;
    if (std::from_chars(token.text.data(), end, value).ec != std::errc())
      fail_at(token.line, "the integer {} is too large", token.text);
    return make_literal(value, token.line);
  }
  double value = 0;
  std::from_chars(token.text.data(), end, value);
  return make_literal(value, token.line);
}

ExpressionPtr ExpressionParser::parenthesis() {
  const int line = tokens_.peek().line;
  if (tokens_.skip_operator(")")) return make_expression(Kind::kTuple, line);
  ExpressionPtr value = parse_tuple();
  tokens_.expect_operator(")");
  return value;
}

ExpressionPtr ExpressionParser::dictionary() {
  ExpressionPtr dict = make_expression(Kind::kDict, tokens_.peek().line);
  while (!tokens_.skip_operator("}")) {
    if (!dict->operands.empty()) {
      tokens_.expect_operator(",");
      if (tokens_.skip_operator("}")) break;
    }
    dict->operands.push_back(parse());
    tokens_.expect_operator(":");
    dict->operands.push_back(parse());
  }
  return dict;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr value) {
  for (int count = 0;; ++count) {
    const int line = tokens_.peek().line;
    if (count > kMaxDepth) fail_at(line, "expressions are nested too deeply");
    if (tokens_.skip_operator(".")) {
      if (tokens_.peek().kind == TokenKind::kInteger) {
        value = make_expression(Kind::kSubscript, line, std::move(value), literal_number());
      } else {
        value = make_expression(Kind::kMember, line, std::move(value));
        value->name = tokens_.expect_name();
      }
    } else if (tokens_.skip_operator("[")) {
      value = subscript(std::move(value));
    } else if (tokens_.skip_operator("(")) {
      value = make_expression(Kind::kCall, line, std::move(value));
      arguments(*value);
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr base) {
  const int line = tokens_.peek().line;
  const auto bound = [&]() -> ExpressionPtr {
    if (tokens_.is_operator(":") || tokens_.is_operator("]")) return make_literal(None{}, line);
    return parse();
  };
  ExpressionPtr first = tokens_.is_operator(":") ? bound() : parse();
  if (tokens_.skip_operator("]")) return make_expression(Kind::kSubscript, line, std::move(base), std::move(first));
  tokens_.expect_operator(":");
  ExpressionPtr end = bound();
  ExpressionPtr step = tokens_.skip_operator(":") ? bound() : make_literal(None{}, line);
  tokens_.expect_operator("]");
  return make_expression(Kind::kSlice, line, std::move(base), std::move(first), std::move(end), std::move(step));
}

void ExpressionParser::arguments(Expression& call) {
  bool first = true;
  while (!tokens_.skip_operator(")")) {
    if (!std::exchange(first, false)) {
      tokens_.expect_operator(",");
      if (tokens_.skip_operator(")")) return;
    }
    const Token& token = tokens_.peek();
    if (tokens_.is_operator("*") || tokens_.is_operator("**"))
      fail_at(token.line, "arguments with '{}' are not supported", token.text);
    if (token.kind == TokenKind::kName && tokens_.is_operator("=", 1)) {
      std::string name = tokens_.next().text;
      tokens_.next();
      call.named.emplace_back(std::move(name), parse());
    } else {
      if (!call.named.empty()) fail_at(token.line, "a positional argument stands behind a named one");
      call.operands.push_back(parse());
    }
  }
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr value) {
  for (int count = 0;; ++count) {
    const int line = tokens_.peek().line;
    if (count > kMaxDepth) fail_at(line, "expressions are nested too deeply");
    if (tokens_.skip_operator("|")) {
      value = make_expression(Kind::kFilter, line, std::move(value));
      value->name = tokens_.expect_name();
      if (tokens_.skip_operator("(")) arguments(*value);
    } else if (tokens_.skip_name("is")) {
      value = test(std::move(value));
    } else if (tokens_.skip_operator("(")) {
      value = make_expression(Kind::kCall, line, std::move(value));
      arguments(*value);
    } else {
      return value;
    }
  }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr base) {
  const int line = tokens_.peek().line;
  const bool negated = tokens_.skip_name("not");
  ExpressionPtr value = make_expression(Kind::kTest, line, std::move(base));
  value->name = tokens_.expect_name();
  const Token& next = tokens_.peek();
  const bool word = next.kind == TokenKind::kName && next.text != "else" && next.text != "or" && next.text != "and";
  if (tokens_.skip_operator("(")) {
    arguments(*value);
  } else if (word || next.kind == TokenKind::kString || next.kind == TokenKind::kInteger ||
             next.kind == TokenKind::kFloat || tokens_.is_operator("[") || tokens_.is_operator("{")) {
    if (tokens_.is_name("is")) fail_at(line, "tests cannot be chained with 'is'");
    value->operands.push_back(postfix(primary()));
  }
  return negated ? make_expression(Kind::kNot, line, std::move(value)) : std::move(value);
}

}  // namespace restkv::jinja
