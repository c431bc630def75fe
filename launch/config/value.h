// One value of a configuration and where it came from, before it has a type.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kvcache/config.h"

namespace restkv {

struct Value {
  enum class Kind { missing, scalar, list, map };

  std::string where;  ///< "run.yaml:7" or "--set cache.window=x"
  std::string key;    ///< "cache.window"
  Kind kind = Kind::scalar;
  std::string text;                ///< of a scalar
  bool quoted = false;             ///< a quoted scalar is text, never a number
  std::vector<std::string> items;  ///< of a list of scalars

  /// "\"abc\" (text)", "a list", "nothing": for messages.
  std::string found() const;
};

// Each throws InputError "WHERE: KEY: found F, expected E" unless the value has exactly that type and range.
int64_t read_integer(const Value& value, int64_t low, int64_t high);
uint64_t read_unsigned(const Value& value);
double read_real(const Value& value, double low, double high);
bool read_bool(const Value& value);
std::string read_text(const Value& value);
std::vector<std::string> read_texts(const Value& value);
/// A list of them, or one alone. At least one item.
std::vector<int64_t> read_integers(const Value& value, int64_t low, int64_t high);
std::vector<Budget> read_budgets(const Value& value);
/// "1024" tokens, or a share of the prompt: "0.15", "15%".
Budget read_budget(const Value& value);

/// Throws the InputError of a value that is not what was expected.
[[noreturn]] void fail_value(const Value& value, const std::string& expected);

}  // namespace restkv
