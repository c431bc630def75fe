#include "model/chat_template/parser.h"

#include <initializer_list>

#include "model/chat_template/error.h"
#include "model/chat_template/expression_parser.h"

namespace restkv::jinja {
namespace {

constexpr int kMaxDepth = 100;  // of tags inside tags; bounds the stack

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)), expressions_(tokens_) {}

  Body run() {
    Body body = statements({});
    if (tokens_.peek().kind != TokenKind::kEnd) tokens_.unexpected("text or a tag");
    return body;
  }

 private:
  // Up to a tag that begins with one of `ends` (its {% is consumed, its word is not), or to the template's end when
  // there are none.
  Body statements(std::initializer_list<std::string_view> ends) {
    const int opened = tokens_.peek().line;
    if (++depth_ > kMaxDepth) fail_at(opened, "tags are nested too deeply");
    Body body;
    while (true) {
      const Token& token = tokens_.peek();
      if (token.kind == TokenKind::kText) {
        Statement& text = add(body, StatementKind::kText);
        text.text = tokens_.next().text;
      } else if (token.kind == TokenKind::kOutputBegin) {
        Statement& output = add(body, StatementKind::kOutput);
        tokens_.next();
        output.value = expressions_.parse_tuple();
        tokens_.expect(TokenKind::kOutputEnd, "'}}'");
      } else if (token.kind == TokenKind::kTagBegin) {
        tokens_.next();
        for (const std::string_view end : ends) {
          if (!tokens_.is_name(end)) continue;
          --depth_;
          return body;
        }
        tag(body);
      } else if (ends.size() == 0) {
        --depth_;
        return body;
      } else {
        fail_at(opened, "a tag is not closed: '{}' is missing", *(ends.end() - 1));
      }
    }
  }

  Statement& add(Body& body, StatementKind kind) {
    Statement& statement = body.emplace_back();
    statement.kind = kind;
    statement.line = tokens_.peek().line;
    return statement;
  }

  void tag_end() { tokens_.expect(TokenKind::kTagEnd, "'%}'"); }

  // The words of tags that were opened by mistake or are not supported.
  void tag(Body& body) {
    const int line = tokens_.peek().line;
    if (tokens_.peek().kind != TokenKind::kName) tokens_.unexpected("the name of a tag");
    const std::string name = tokens_.next().text;
    if (name == "if") return if_tag(body);
    if (name == "for") return for_tag(body);
    if (name == "set") return set_tag(body);
    if (name == "macro") return macro_tag(body);
    if (name == "generation") return generation_tag(body);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_at(line, "'{}' stands outside a loop", name);
      add(body, name == "break" ? StatementKind::kBreak : StatementKind::kContinue);
      return tag_end();
    }
    fail_at(line,
            "the tag '{}' is not supported here; supported: if, elif, else, for, set, macro, generation, break, "
            "continue, raw",
            name);
  }

  void if_tag(Body& body) {
    Statement& statement = add(body, StatementKind::kIf);
    Branch* branch = &statement.branches.emplace_back();
    branch->condition = expressions_.parse_tuple();
    tag_end();
    branch->body = statements({"elif", "else", "endif"});
    while (tokens_.skip_name("elif")) {
      branch = &statement.branches.emplace_back();
      branch->condition = expressions_.parse_tuple();
      tag_end();
      branch->body = statements({"elif", "else", "endif"});
    }
    if (tokens_.skip_name("else")) {
      tag_end();
      statement.branches.emplace_back().body = statements({"endif"});
    }
    if (!tokens_.skip_name("endif")) tokens_.unexpected("'endif'");
    tag_end();
  }

  void for_tag(Body& body) {
    Statement& statement = add(body, StatementKind::kFor);
    do {
      statement.targets.push_back({tokens_.expect_name(), {}});
    } while (tokens_.skip_operator(","));
    if (!tokens_.skip_name("in")) tokens_.unexpected("'in'");
    statement.value = expressions_.parse_without_conditional();
    if (tokens_.skip_name("if")) statement.condition = expressions_.parse();
    if (tokens_.is_name("recursive")) fail_at(statement.line, "recursive loops are not supported");
    tag_end();
    ++loops_;
    statement.branches.emplace_back().body = statements({"else", "endfor"});
    --loops_;
    if (tokens_.skip_name("else")) {
      tag_end();
      statement.branches.emplace_back().body = statements({"endfor"});
    }
    if (!tokens_.skip_name("endfor")) tokens_.unexpected("'endfor'");
    tag_end();
  }

  void set_tag(Body& body) {
    Statement& statement = add(body, StatementKind::kSet);
    do {
      Target target{tokens_.expect_name(), {}};
      if (tokens_.skip_operator(".")) target.member = tokens_.expect_name();
      statement.targets.push_back(std::move(target));
    } while (tokens_.skip_operator(","));
    if (tokens_.skip_operator("=")) {
      statement.value = expressions_.parse_tuple();
      return tag_end();
    }
    if (tokens_.is_operator("|")) fail_at(statement.line, "filters on a 'set' block are not supported");
    if (statement.targets.size() != 1) tokens_.unexpected("'='");
    statement.kind = StatementKind::kSetBlock;
    close_body(statement, "endset");
  }

  void macro_tag(Body& body) {
    Statement& statement = add(body, StatementKind::kMacro);
    statement.text = tokens_.expect_name();
    tokens_.expect_operator("(");
    while (!tokens_.skip_operator(")")) {
      if (!statement.parameters.empty()) {
        tokens_.expect_operator(",");
        if (tokens_.skip_operator(")")) break;
      }
      std::string name = tokens_.expect_name();
      ExpressionPtr fallback = tokens_.skip_operator("=") ? expressions_.parse() : nullptr;
      if (!fallback && !statement.parameters.empty() && statement.parameters.back().second)
        fail_at(statement.line, "the parameter '{}' needs a default, like those before it", name);
      statement.parameters.emplace_back(std::move(name), std::move(fallback));
    }
    const int loops = std::exchange(loops_, 0);
    close_body(statement, "endmacro");
    loops_ = loops;
  }

  void generation_tag(Body& body) { close_body(add(body, StatementKind::kGroup), "endgeneration"); }

  void close_body(Statement& statement, std::string_view end) {
    tag_end();
    Body inner = statements({end});
    tokens_.next();
    if (tokens_.peek().kind == TokenKind::kName) tokens_.next();  // endmacro may repeat the name
    tag_end();
    statement.branches.emplace_back().body = std::move(inner);
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int depth_ = 0;
  int loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) { return Parser(source).run(); }

}  // namespace restkv::jinja
