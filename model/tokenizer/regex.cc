#include "model/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cctype>
#include <cstring>

#include "dist/base/error.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

constexpr size_t kJitStackStart = 32 * 1024;
constexpr size_t kJitStackMax = 64 * 1024 * 1024;

std::string pcre_message(int code) {
  char text[256] = {};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

// The PCRE2 spelling of the escape \c, or nullptr when it is not supported. PCRE2's own \s and \v differ from
// Oniguruma's (U+180E; vertical white space), so they are spelt out.
const char* escape_spelling(char c) {
  switch (c) {
    case 's': return "\\p{White_Space}";
    case 'S': return "\\P{White_Space}";
    case 'v': return "\\x0B";
    case 'd': return "\\p{Nd}";
    case 'D': return "\\P{Nd}";
    case 'n': return "\\n";
    case 'r': return "\\r";
    case 't': return "\\t";
    case 'f': return "\\f";
    case 'p': return "\\p";
    case 'P': return "\\P";
    case 'x': return "\\x";
    default: return nullptr;
  }
}

std::string translate(const std::string& pattern, const std::string& where) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern.compare(i, 2, "(*") == 0 || pattern.compare(i, 2, "&&") == 0)
      fail_input("{}: the regular expression {} uses '{}', which is not supported", where, pattern,
                 pattern.substr(i, 2));
    if (pattern[i] != '\\') {
      out.push_back(pattern[i]);
      continue;
    }
    if (++i == pattern.size()) fail_input("{}: the regular expression {} ends with a backslash", where, pattern);
    const char c = pattern[i];
    if (c == 'u' && i + 4 < pattern.size()) {  // \uHHHH
      out += "\\x{" + pattern.substr(i + 1, 4) + "}";
      i += 4;
    } else if (const char* spelling = escape_spelling(c)) {
      out += spelling;
    } else if (!std::isalnum(static_cast<unsigned char>(c))) {
      out.push_back('\\');
      out.push_back(c);
    } else {
      fail_input(
          "{}: the regular expression {} uses '\\{}', which is not supported; supported escapes: "
          "\\s \\S \\d \\D \\p{{..}} \\P{{..}} \\n \\r \\t \\f \\v \\xHH \\uHHHH and escaped punctuation",
          where, pattern, c);
    }
  }
  return out;
}

}  // namespace

struct RegexScratch::State {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

RegexScratch::RegexScratch() : state_(std::make_unique<State>()) {
  state_->data = pcre2_match_data_create(1, nullptr);
  state_->context = pcre2_match_context_create(nullptr);
  if (!state_->data || !state_->context) fail_runtime("PCRE2: out of memory");
  state_->stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
  // Without JIT support there is no stack to assign, and PCRE2 interprets.
  if (state_->stack) pcre2_jit_stack_assign(state_->context, nullptr, state_->stack);
}

RegexScratch::~RegexScratch() = default;

struct Regex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& pattern, const std::string& where) : pattern_(pattern) {
  require_utf8(pattern, where);
  const std::string text = translate(pattern, where);
  int error = 0;
  size_t offset = 0;
  auto code = std::make_shared<Code>();
  // Oniguruma's ^ and $ always match at line ends.
  code->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (!code->code)
    fail_input("{}: the regular expression {} does not compile: {} (near byte {})", where, pattern, pcre_message(error),
               offset);
  const int jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  if (jit != 0 && jit != PCRE2_ERROR_JIT_BADOPTION && jit != PCRE2_ERROR_NOMEMORY)
    fail_runtime("{}: PCRE2 cannot compile {} for this processor: {}", where, pattern, pcre_message(jit));
  code_ = std::move(code);
}

bool Regex::find(std::string_view text, size_t from, RegexScratch& scratch, Match& match) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const RegexScratch::State& state = *scratch.state_;
  const int count = pcre2_match(code_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY,
                                state.data, state.context);
  if (count == PCRE2_ERROR_NOMATCH) return false;
  if (count < 0) fail_runtime("the regular expression {} failed: {}", pattern_, pcre_message(count));
  const size_t* bounds = pcre2_get_ovector_pointer(state.data);
  match = {bounds[0], bounds[1]};
  return true;
}

std::string regex_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::strchr("\\^$.[]|()?*+{}#-&", c) && c != '\0') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

}  // namespace restkv
