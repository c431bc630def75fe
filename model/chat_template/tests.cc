#include <map>

#include "model/chat_template/builtins.h"
#include "model/chat_template/error.h"
#include "model/chat_template/text.h"

namespace restkv::jinja {
namespace {

using Test = bool (*)(const Value& input, const Arguments& arguments);

const Value& operand(const char* name, const Arguments& arguments) {
  if (arguments.positional.size() != 1 || !arguments.named.empty()) fail("the test '{}' takes one argument", name);
  return arguments.positional[0];
}

int64_t remainder(const Value& input, int64_t divisor) {
  return arithmetic("%", input, Value(divisor)).integer("a number that is tested");
}

bool same(const Value& a, const Value& b) { return std::string_view(a.kind()) == b.kind() && a == b; }

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_list() || value.is_dict();
}

const std::map<std::string, Test>& tests() {
  using V = const Value&;
  using A = const Arguments&;
  static constexpr Test kEqual = [](V v, A a) { return v == operand("equalto", a); };
  static constexpr Test kNotEqual = [](V v, A a) { return !(v == operand("ne", a)); };
  static constexpr Test kLess = [](V v, A a) { return v < operand("lt", a); };
  static constexpr Test kGreater = [](V v, A a) { return operand("gt", a) < v; };
  static constexpr Test kAtMost = [](V v, A a) { return !(operand("le", a) < v); };
  static constexpr Test kAtLeast = [](V v, A a) { return !(v < operand("ge", a)); };
  static const std::map<std::string, Test> table = {
      {"!=", kNotEqual},
      {"<", kLess},
      {"<=", kAtMost},
      {"==", kEqual},
      {">", kGreater},
      {">=", kAtLeast},
      {"boolean", [](V v, A) { return v.is_bool(); }},
      {"callable", [](V v, A) { return v.function() != nullptr; }},
      {"defined", [](V v, A) { return !v.is_undefined(); }},
      {"divisibleby", [](V v, A a) { return remainder(v, operand("divisibleby", a).integer("the divisor")) == 0; }},
      {"eq", kEqual},
      {"equalto", kEqual},
      {"even", [](V v, A) { return remainder(v, 2) == 0; }},
      {"false", [](V v, A) { return v.is_bool() && !v.truth(); }},
      {"float", [](V v, A) { return v.is_float(); }},
      {"ge", kAtLeast},
      {"greaterthan", kGreater},
      {"gt", kGreater},
      {"in", [](V v, A a) { return contains(operand("in", a), v); }},
      {"integer", [](V v, A) { return v.is_integer(); }},
      {"iterable", [](V v, A) { return is_iterable(v); }},
      {"le", kAtMost},
      {"lessthan", kLess},
      {"lower", [](V v, A) { return to_lower(v.print()) == v.print() && to_upper(v.print()) != v.print(); }},
      {"lt", kLess},
      {"mapping", [](V v, A) { return v.is_dict(); }},
      {"ne", kNotEqual},
      {"none", [](V v, A) { return v.is_none(); }},
      {"number", [](V v, A) { return v.is_number(); }},
      {"odd", [](V v, A) { return remainder(v, 2) == 1; }},
      {"sameas", [](V v, A a) { return same(v, operand("sameas", a)); }},
      {"sequence", [](V v, A) { return is_iterable(v); }},
      {"string", [](V v, A) { return v.is_string(); }},
      {"true", [](V v, A) { return v.is_bool() && v.truth(); }},
      {"undefined", [](V v, A) { return v.is_undefined(); }},
      {"upper", [](V v, A) { return to_upper(v.print()) == v.print() && to_lower(v.print()) != v.print(); }},
  };
  return table;
}

}  // namespace

bool apply_test(const std::string& name, const Value& input, const Arguments& arguments) {
  const auto entry = tests().find(name);
  if (entry != tests().end()) return entry->second(input, arguments);
  std::string supported;
  for (const auto& [known, test] : tests()) supported += (supported.empty() ? "" : ", ") + known;
  fail("the test '{}' is not supported; supported: {}", name, supported);
}

}  // namespace restkv::jinja
