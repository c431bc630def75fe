#include <cmath>

#include "model/chat_template/builtins.h"
#include "model/chat_template/error.h"

namespace restkv::jinja {

Parameters::Parameters(const std::string& callee, const Arguments& arguments, std::initializer_list<const char*> names)
    : callee_(callee), names_(names), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names_.size())
    fail("{} takes at most {} arguments, found {}", callee, names_.size(), arguments.positional.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    size_t index = 0;
    while (index < names_.size() && name != names_[index]) ++index;
    if (index == names_.size()) fail("{} has no argument '{}'", callee, name);
    values_[index] = &value;
  }
}

const Value& Parameters::require(size_t index) const {
  if (!values_[index]) fail("{} needs the argument '{}'", callee_, names_[index]);
  return *values_[index];
}

std::string Parameters::what(size_t index) const { return fmt::format("'{}' of {}", names_[index], callee_); }

namespace {

Value divide(const std::string& op, const Value& a, const Value& b) {
  if (b.number() == 0) fail("division by zero");
  if (op == "/") return a.number() / b.number();
  if (a.is_float() || b.is_float()) {
    const double quotient = std::floor(a.number() / b.number());
    return op == "//" ? quotient : a.number() - quotient * b.number();
  }
  const int64_t x = a.integer("");
  const int64_t y = b.integer("");
  if (y == -1) return op == "//" ? arithmetic("-", Value(int64_t{0}), a) : Value(int64_t{0});
  const int64_t quotient = x / y - (x % y != 0 && (x < 0) != (y < 0));  // rounds down, as in Python
  return op == "//" ? quotient : x - quotient * y;
}

Value power(const Value& a, const Value& b) {
  if (a.is_float() || b.is_float() || b.integer("") < 0) return std::pow(a.number(), b.number());
  int64_t result = 1;
  const int64_t base = a.integer("");
  const int64_t exponent = std::abs(base) > 1 ? b.integer("") : b.integer("") % 2 + 2 * (b.integer("") > 0);
  for (int64_t i = 0; i < exponent; ++i)
    if (__builtin_mul_overflow(result, base, &result)) fail("the result of ** is too large");
  return result;
}

Value number_arithmetic(const std::string& op, const Value& a, const Value& b) {
  if (op == "/" || op == "//" || op == "%") return divide(op, a, b);
  if (op == "**") return power(a, b);
  if (a.is_float() || b.is_float()) {
    const double x = a.number();
    const double y = b.number();
    return op == "+" ? x + y : op == "-" ? x - y : x * y;
  }
  const int64_t x = a.integer("");
  const int64_t y = b.integer("");
  int64_t result = 0;
  const bool overflow = op == "+"   ? __builtin_add_overflow(x, y, &result)
                        : op == "-" ? __builtin_sub_overflow(x, y, &result)
                                    : __builtin_mul_overflow(x, y, &result);
  if (overflow) fail("the result of {} is too large", op);
  return result;
}

Value repeat(const Value& what, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const auto size = static_cast<size_t>(length(what)) * (what.is_string() ? 4 : 1);
  if (size > 0 && static_cast<uint64_t>(count) > kMaxText / size) fail("the result of * is too large");
  if (what.is_string()) {
    std::string out;
    for (int64_t i = 0; i < count; ++i) out += what.string();
    return out;
  }
  List out{{}, what.list().tuple};
  for (int64_t i = 0; i < count && size > 0; ++i)
    out.items.insert(out.items.end(), what.list().items.begin(), what.list().items.end());
  return out;
}

std::string concatenate(const std::string& a, const std::string& b) {
  if (a.size() + b.size() > kMaxText) fail("the text is longer than {} bytes", kMaxText);
  return a + b;
}

Value make_namespace(const Arguments& arguments) {
  auto space = std::make_shared<Namespace>();
  for (const Value& value : arguments.positional) {
    if (!value.is_dict()) fail("namespace() takes a dictionary or named values, found {}", value.kind());
    for (const auto& [key, item] : value.dict().items) space->members.set(key, item);
  }
  for (const auto& [name, value] : arguments.named) space->members.set(name, value);
  return space;
}

Value make_dict(const Arguments& arguments) {
  Dict out;
  for (const Value& value : arguments.positional) {
    if (!value.is_dict()) fail("dict() takes a dictionary or named values, found {}", value.kind());
    for (const auto& [key, item] : value.dict().items) out.set(key, item);
  }
  for (const auto& [name, value] : arguments.named) out.set(name, value);
  return out;
}

Value range(const Arguments& arguments) {
  constexpr int64_t kMaxRange = 100000;  // that of Jinja's sandbox
  const Parameters given("range()", arguments, {"start", "stop", "step"});
  const bool one = !given.has(1);
  int64_t at = one ? 0 : given.integer(0, 0);
  const int64_t stop = given.require(one ? 0 : 1).integer(given.what(one ? 0 : 1));
  const int64_t step = given.integer(2, 1);
  if (step == 0) fail("range(): the step is zero");
  List out;
  while (step > 0 ? at < stop : at > stop) {
    if (out.items.size() >= kMaxRange) fail("range() is longer than {}", kMaxRange);
    out.items.emplace_back(at);
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  return out;
}

Value raise_exception(const Arguments& arguments) {
  const Parameters given("raise_exception()", arguments, {"message"});
  throw TemplateError{given.require(0).print(), 0, true};
}

Value format_time(const Arguments& arguments, const std::tm& now) {
  const Parameters given("strftime_now()", arguments, {"format"});
  const std::string& format = given.text(0);
  if (format.empty()) return "";
  std::string out(format.size() * 16 + 256, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &now));
  if (out.empty()) fail("strftime_now(): the format '{}' gives nothing", format);
  return out;
}

}  // namespace

Value arithmetic(const std::string& op, const Value& a, const Value& b) {
  if (op == "~") return concatenate(a.print(), b.print());
  for (const Value* side : {&a, &b})
    if (side->is_undefined()) fail("'{}' is undefined", side->undefined().name);
  if (a.is_number() && b.is_number()) return number_arithmetic(op, a, b);
  if (op == "+" && a.is_string() && b.is_string()) return concatenate(a.string(), b.string());
  if (op == "+" && a.is_list() && b.is_list() && a.list().tuple == b.list().tuple) {
    List sum = a.list();
    sum.items.insert(sum.items.end(), b.list().items.begin(), b.list().items.end());
    return sum;
  }
  const auto repeatable = [](const Value& value) { return value.is_string() || value.is_list(); };
  const auto whole = [](const Value& value) { return value.is_integer() || value.is_bool(); };
  if (op == "*" && repeatable(a) && whole(b)) return repeat(a, b.integer(""));
  if (op == "*" && repeatable(b) && whole(a)) return repeat(b, a.integer(""));
  fail("'{}' is not supported between {} and {}", op, a.kind(), b.kind());
}

std::vector<std::pair<std::string, Value>> global_functions(const std::tm& now) {
  std::vector<std::pair<std::string, Value>> out;
  const auto add = [&](const char* name, std::function<Value(const Arguments&)> call) {
    out.emplace_back(name, Function{name, std::move(call)});
  };
  add("namespace", make_namespace);
  add("dict", make_dict);
  add("range", range);
  add("raise_exception", raise_exception);
  add("strftime_now", [now](const Arguments& arguments) { return format_time(arguments, now); });
  return out;
}

Value loop_member(const std::shared_ptr<Loop>& loop, const std::string& name) {
  const auto count = static_cast<int64_t>(loop->items->items.size());
  const int64_t index = loop->index;
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return count - index;
  if (name == "revindex0") return count - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == count;
  if (name == "length") return count;
  if (name == "depth") return int64_t{1};  // loops that call themselves are not supported
  if (name == "depth0") return int64_t{0};
  if (name == "previtem") return index > 0 ? loop->items->items[index - 1] : Value(Undefined{"loop.previtem"});
  if (name == "nextitem") return index + 1 < count ? loop->items->items[index + 1] : Value(Undefined{"loop.nextitem"});
  if (name == "cycle")
    return Function{"loop.cycle", [index](const Arguments& arguments) {
                      const auto& items = arguments.positional;
                      if (items.empty()) fail("loop.cycle() needs values");
                      return items[static_cast<size_t>(index) % items.size()];
                    }};
  if (name == "changed")
    return Function{"loop.changed", [loop](const Arguments& arguments) {
                      Value now(arguments.positional);
                      if (loop->last_changed && *loop->last_changed == now) return Value(false);
                      loop->last_changed = std::make_shared<Value>(std::move(now));
                      return Value(true);
                    }};
  return Undefined{"loop." + name};
}

}  // namespace restkv::jinja
