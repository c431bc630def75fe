#include "model/chat_template/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "model/chat_template/error.h"
#include "model/chat_template/text.h"

namespace restkv::jinja {
namespace {

bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool is_name_part(char c) { return is_name_start(c) || std::isdigit(static_cast<unsigned char>(c)); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Line ends become \n, and one at the very end is dropped.
std::string normalize_lines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_lines(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = find_tag();
      text_until(tag);
      if (tag == source_.size()) break;
      const char kind = source_[tag + 1];
      const int line = line_;
      at_ = tag + 2;
      if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) ++at_;
      if (kind == '#') {
        comment(line);
      } else if (kind == '%' && raw_begins()) {
        raw(line);
      } else {
        tag_body(kind == '%');
      }
    }
    push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  // Start of the next tag, or the end of the source.
  size_t find_tag() const {
    for (size_t at = at_; (at = source_.find('{', at)) != std::string::npos; ++at) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return source_.size();
  }

  void text_until(size_t tag) {
    std::string text = source_.substr(at_, tag - at_);
    const int line = line_;
    count_lines(at_, tag);
    trim_before(tag, text);
    if (!text.empty()) tokens_.push_back({TokenKind::kText, std::move(text), line});
    at_ = tag;
  }

  // What the tag that begins at `tag` takes away from the text before it.
  void trim_before(size_t tag, std::string& text) const {
    if (tag == source_.size()) return;
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') {
      text = std::string(strip(text, false, true));
    } else if (sign != '+' && source_[tag + 1] != '{') {  // lstrip_blocks
      const size_t newline = text.rfind('\n');
      if (newline == std::string::npos && !line_start_) return;
      const size_t begin = newline == std::string::npos ? 0 : newline + 1;
      if (strip(std::string_view(text).substr(begin), true, false).empty()) text.resize(begin);
    }
  }

  // Behind the sign and the end of a tag: what they take away from the text after it. `block`: tag or comment.
  void trim_after(char sign, bool block) {
    line_start_ = false;
    if (sign == '-') {
      const std::string_view rest = std::string_view(source_).substr(at_);
      const size_t skipped = rest.size() - strip(rest, true, false).size();
      count_lines(at_, at_ + skipped);
      at_ += skipped;
    } else if (block && sign != '+' && at_ < source_.size() && source_[at_] == '\n') {  // trim_blocks
      ++line_;
      ++at_;
    }
    line_start_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void comment(int line) {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_at(line, "a comment is not closed by '#}}'");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    count_lines(at_, end);
    at_ = end + 2;
    trim_after(sign, true);
  }

  // Whether `word` stands at at_ as the whole body of a tag; `end` and `sign` are then those of the tag.
  bool lone_word(std::string_view word, size_t from, size_t& end, char& sign) const {
    size_t at = source_.find_first_not_of(" \t\n", from);
    if (at == std::string::npos || source_.compare(at, word.size(), word) != 0) return false;
    at = source_.find_first_not_of(" \t\n", at + word.size());
    if (at == std::string::npos) return false;
    sign = source_[at] == '-' || source_[at] == '+' ? source_[at++] : '\0';
    end = at + 2;
    return source_.compare(at, 2, "%}") == 0;
  }

  bool raw_begins() const {
    size_t end;
    char sign;
    return lone_word("raw", at_, end, sign);
  }

  void raw(int line) {
    size_t end = 0;
    char sign = 0;
    lone_word("raw", at_, end, sign);
    count_lines(at_, end);
    at_ = end;
    trim_after(sign, false);  // here trim_blocks has no effect
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != std::string::npos; ++tag) {
      const size_t word = tag + 2 + (tag + 2 < source_.size() && (source_[tag + 2] == '-' || source_[tag + 2] == '+'));
      if (!lone_word("endraw", word, end, sign)) continue;
      text_until(tag);
      count_lines(at_, end);
      at_ = end;
      trim_after(sign, true);
      return;
    }
    fail_at(line, "'raw' is not closed by 'endraw'");
  }

  void tag_body(bool block) {
    const int line = line_;
    push(block ? TokenKind::kTagBegin : TokenKind::kOutputBegin, "");
    std::string open;  // brackets that are open: inside them }} and %} are no end
    while (true) {
      skip_space();
      if (at_ >= source_.size()) fail_at(line, "a tag is not closed by '{}'", block ? "%}" : "}}");
      const char c = source_[at_];
      if (open.empty() && tag_ends(block)) return;
      if (is_name_start(c)) {
        name();
      } else if (is_digit(c)) {
        number();
      } else if (c == '"' || c == '\'') {
        string(c);
      } else {
        operator_token(open);
      }
    }
  }

  bool tag_ends(bool block) {
    const char first = source_[at_];
    const bool has_sign = first == '-' || (block && first == '+');
    if (source_.compare(at_ + has_sign, 2, block ? "%}" : "}}") != 0) return false;
    push(block ? TokenKind::kTagEnd : TokenKind::kOutputEnd, "");
    at_ += 2 + has_sign;
    trim_after(has_sign ? first : '\0', block);
    return true;
  }

  void skip_space() {
    while (at_ < source_.size() && std::isspace(static_cast<unsigned char>(source_[at_]))) {
      if (source_[at_] == '\n') ++line_;
      ++at_;
    }
  }

  void name() {
    const size_t begin = at_;
    while (at_ < source_.size() && is_name_part(source_[at_])) ++at_;
    push(TokenKind::kName, source_.substr(begin, at_ - begin));
  }

  // Behind a dot (list.0.1) a number is an integer.
  void number() {
    const size_t begin = at_;
    const bool member = begin > 0 && source_[begin - 1] == '.';
    const auto char_at = [&](size_t at) { return at < source_.size() ? source_[at] : '\0'; };
    const auto digits = [&] {
      while (is_digit(char_at(at_)) || (char_at(at_) == '_' && is_digit(char_at(at_ + 1)))) ++at_;
    };
    digits();
    bool is_float = false;
    if (!member && char_at(at_) == '.' && is_digit(char_at(at_ + 1))) {
      is_float = true;
      ++at_;
      digits();
    }
    const bool sign = char_at(at_ + 1) == '+' || char_at(at_ + 1) == '-';
    if (!member && (char_at(at_) | 32) == 'e' && is_digit(char_at(at_ + 1 + sign))) {
      is_float = true;
      at_ += 1 + sign;
      digits();
    }
    if (is_name_start(char_at(at_)))
      fail_at(line_, "the number '{}' is not supported (decimal only)", source_.substr(begin, at_ + 1 - begin));
    std::string text = source_.substr(begin, at_ - begin);
    std::erase(text, '_');
    push(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
  }

  void string(char quote) {
    const int line = line_;
    const size_t begin = ++at_;
    while (at_ < source_.size() && source_[at_] != quote) at_ += source_[at_] == '\\' ? 2 : 1;
    if (at_ >= source_.size()) fail_at(line, "a string is not closed by {}", quote);
    tokens_.push_back({TokenKind::kString, unescape(std::string_view(source_).substr(begin, at_ - begin), line), line});
    count_lines(begin, at_);
    ++at_;
  }

  void operator_token(std::string& open) {
    static constexpr std::array<std::string_view, 25> kOperators = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                                                    "/",  "%",  "~",  "<",  ">",  "=",  ".", ",", ":",
                                                                    "|",  "(",  ")",  "[",  "]",  "{",  "}"};
    for (const std::string_view op : kOperators) {
      if (source_.compare(at_, op.size(), op) != 0) continue;
      const char c = op.front();
      if (c == '(' || c == '[' || c == '{') {
        open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != c) fail_at(line_, "unexpected '{}'", c);
        open.pop_back();
      }
      at_ += op.size();
      return push(TokenKind::kOperator, std::string(op));
    }
    fail_at(line_, "unexpected character '{}'", character_at(source_, at_));
  }

  void push(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  void count_lines(size_t begin, size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + begin, source_.begin() + end, '\n'));
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // whether the text at at_ begins a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace restkv::jinja
