// Cuts a template into text and the tokens inside its tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace restkv::jinja {

enum class TokenKind : uint8_t {
  kText,         ///< template text outside tags, white space already trimmed
  kOutputBegin,  ///< {{
  kOutputEnd,    ///< }}
  kTagBegin,     ///< {%
  kTagEnd,       ///< %}
  kName,
  kString,  ///< escapes resolved
  kInteger,
  kFloat,
  kOperator,  ///< text is the operator
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
};

/// Tokens of a template, with the white-space rules of trim_blocks and lstrip_blocks (as chat templates are rendered
/// everywhere) and of the signs - and + at tags. Comments are gone, raw blocks are text. The last token is kEnd.
/// `source` must be valid UTF-8. Throws TemplateError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace restkv::jinja
