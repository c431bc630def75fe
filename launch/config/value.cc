#include "launch/config/value.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "dist/base/error.h"

namespace restkv {
namespace {

/// The whole of `text` as a number of type T.
template <class T>
bool parse_all(const std::string& text, T& out) {
  const char* begin = text.data();
  const char* end = begin + text.size();
  if (begin != end && *begin == '+') ++begin;
  auto [stop, error] = std::from_chars(begin, end, out);
  return error == std::errc() && stop == end && begin != end;
}

}  // namespace

std::string Value::found() const {
  switch (kind) {
    case Kind::missing: return "nothing";
    case Kind::list: return "a list";
    case Kind::map: return "a section";
    case Kind::scalar: break;
  }
  double number = 0;
  if (!quoted && parse_all(text, number)) return text;
  std::string shown = text.size() <= 60 ? text : text.substr(0, 57) + "...";
  return fmt::format("\"{}\" (text)", shown);
}

void fail_value(const Value& value, const std::string& expected) {
  fail_input("{}: {}: found {}, expected {}", value.where, value.key, value.found(), expected);
}

int64_t read_integer(const Value& value, int64_t low, int64_t high) {
  std::string expected = high == std::numeric_limits<int64_t>::max()
                             ? fmt::format("an integer of at least {}", low)
                             : fmt::format("an integer from {} to {}", low, high);
  int64_t number = 0;
  if (value.kind != Value::Kind::scalar || value.quoted || !parse_all(value.text, number) || number < low ||
      number > high)
    fail_value(value, expected);
  return number;
}

uint64_t read_unsigned(const Value& value) {
  uint64_t number = 0;
  if (value.kind != Value::Kind::scalar || value.quoted || !parse_all(value.text, number))
    fail_value(value, "an integer from 0 to 18446744073709551615");
  return number;
}

double read_real(const Value& value, double low, double high) {
  std::string expected =
      std::isinf(high) ? fmt::format("a number of at least {}", low) : fmt::format("a number from {} to {}", low, high);
  double number = 0;
  if (value.kind != Value::Kind::scalar || value.quoted || !parse_all(value.text, number) || !std::isfinite(number) ||
      number < low || number > high)
    fail_value(value, expected);
  return number;
}

bool read_bool(const Value& value) {
  bool known = value.kind == Value::Kind::scalar && !value.quoted && (value.text == "true" || value.text == "false");
  if (!known) fail_value(value, "true or false");
  return value.text == "true";
}

std::string read_text(const Value& value) {
  if (value.kind != Value::Kind::scalar) fail_value(value, "text");
  return value.text;
}

std::vector<std::string> read_texts(const Value& value) {
  if (value.kind == Value::Kind::scalar) return {value.text};
  if (value.kind != Value::Kind::list) fail_value(value, "text, or a list of texts");
  return value.items;
}

Budget read_budget(const Value& value) {
  const char* expected = "a count of at least 1 (1024), a share above 0 and at most 1 (0.15), or a percentage (15%)";
  Budget budget;
  if (value.kind != Value::Kind::scalar) fail_value(value, expected);
  const std::string& text = value.text;
  bool percent = text.ends_with('%');
  if (value.quoted && !percent) fail_value(value, expected);
  if (!percent && parse_all(text, budget.tokens)) {
    if (budget.tokens < 1) fail_value(value, expected);
    return budget;
  }
  bool number = parse_all(percent ? text.substr(0, text.size() - 1) : text, budget.fraction);
  if (percent) budget.fraction /= 100.0;
  if (!number || !(budget.fraction > 0.0 && budget.fraction <= 1.0)) fail_value(value, expected);
  budget.tokens = 0;
  return budget;
}

namespace {

/// The items of a list (or the scalar itself) as values of their own.
std::vector<Value> items_of(const Value& value, const char* expected) {
  if (value.kind == Value::Kind::scalar) return {value};
  if (value.kind != Value::Kind::list || value.items.empty()) fail_value(value, expected);
  std::vector<Value> items;
  for (const std::string& text : value.items)
    items.push_back({value.where, value.key, Value::Kind::scalar, text, false, {}});
  return items;
}

}  // namespace

std::vector<int64_t> read_integers(const Value& value, int64_t low, int64_t high) {
  std::vector<int64_t> numbers;
  for (const Value& item : items_of(value, "an integer, or a list of integers"))
    numbers.push_back(read_integer(item, low, high));
  return numbers;
}

std::vector<Budget> read_budgets(const Value& value) {
  std::vector<Budget> budgets;
  for (const Value& item : items_of(value, "a budget, or a list of budgets")) budgets.push_back(read_budget(item));
  return budgets;
}

}  // namespace restkv
