// The filters, tests, methods and functions that templates may call, each kind in one table.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat_template/value.h"

namespace restkv::jinja {

/// Longest text a template may build, in bytes.
inline constexpr size_t kMaxText = size_t{1} << 28;

/// input | name(arguments). Throws TemplateError for filters that are not supported (listing those that are) and for
/// unsuitable values.
Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments);

/// input is name(arguments).
bool apply_test(const std::string& name, const Value& input, const Arguments& arguments);

bool has_method(const Value& object, const std::string& name);
/// object.name(arguments); has_method() must hold.
Value call_method(const Value& object, const std::string& name, const Arguments& arguments);

/// A property of the loop variable (index, first, cycle, ...).
Value loop_member(const std::shared_ptr<Loop>& loop, const std::string& name);

/// a op b for + - * / // % ** ~.
Value arithmetic(const std::string& op, const Value& a, const Value& b);

/// Functions that are there in every template: raise_exception, strftime_now (which reports `now`), namespace, range,
/// dict.
std::vector<std::pair<std::string, Value>> global_functions(const std::tm& now);

/// Arguments by position or name, bound to the parameters of a built-in. Throws TemplateError for those that it does
/// not have.
class Parameters {
 public:
  Parameters(const std::string& callee, const Arguments& arguments, std::initializer_list<const char*> names);
  bool has(size_t index) const { return values_[index] != nullptr; }
  /// Throws TemplateError when it was not given.
  const Value& require(size_t index) const;
  const Value& get(size_t index, const Value& otherwise) const { return has(index) ? *values_[index] : otherwise; }
  bool flag(size_t index, bool otherwise) const { return has(index) ? values_[index]->truth() : otherwise; }
  const std::string& text(size_t index) const { return require(index).string(what(index)); }
  int64_t integer(size_t index, int64_t otherwise) const {
    return has(index) && !values_[index]->is_none() ? values_[index]->integer(what(index)) : otherwise;
  }
  std::string what(size_t index) const;

 private:
  std::string callee_;
  std::vector<const char*> names_;
  std::vector<const Value*> values_;
};

}  // namespace restkv::jinja
