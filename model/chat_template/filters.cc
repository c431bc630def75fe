#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "model/chat_template/builtins.h"
#include "model/chat_template/error.h"
#include "model/chat_template/text.h"

namespace restkv::jinja {
namespace {

using Filter = Value (*)(const Value& input, const Arguments& arguments);

// "a.b.0" of a value, as in the attribute arguments of filters.
Value attribute(const Value& value, const Value& path) {
  if (path.is_integer()) return subscript(value, path);
  Value out = value;
  const std::string dot = ".";
  for (const std::string& part : split(path.string("an attribute"), &dot, -1)) {
    int64_t index = 0;
    const bool numeric =
        std::from_chars(part.data(), part.data() + part.size(), index).ptr == part.data() + part.size();
    out = subscript(out, numeric && !part.empty() ? Value(index) : Value(part));
  }
  return out;
}

Arguments rest(const Arguments& arguments, size_t from) {
  Arguments out;
  for (size_t i = from; i < arguments.positional.size(); ++i) out.positional.push_back(arguments.positional[i]);
  out.named = arguments.named;
  return out;
}

// ---- text

Value trim(const Value& input, const Arguments& arguments) {
  const Parameters given("trim", arguments, {"chars"});
  const std::string text = input.print();
  return given.has(0) && !given.require(0).is_none() ? strip(text, given.text(0), true, true) : strip(text, true, true);
}

Value replace_filter(const Value& input, const Arguments& arguments) {
  const Parameters given("replace", arguments, {"old", "new", "count"});
  return replace(input.print(), given.require(0).print(), given.require(1).print(), given.integer(2, -1));
}

Value title_filter(const Value& input, const Arguments&) {
  std::string out;
  bool start = true;
  const std::string text = input.print();
  for (const std::string_view c : characters(text)) {
    out += start ? to_upper(c) : to_lower(c);
    start = strip(c, true, false).empty() || std::string_view("-({[<").find(c) != std::string_view::npos;
  }
  return out;
}

Value indent(const Value& input, const Arguments& arguments) {
  const Parameters given("indent", arguments, {"width", "first", "blank"});
  const Value four(int64_t{4});
  const Value& width = given.get(0, four);
  const int64_t count = width.is_string() ? 0 : width.integer(given.what(0));
  if (count > 1000) fail("indent: the width {} is too large; allowed: up to 1000", count);
  const std::string margin = width.is_string() ? width.string() : std::string(std::max<int64_t>(count, 0), ' ');
  const std::string newline = "\n";
  std::string out = given.flag(1, false) ? margin : "";
  bool first = true;
  for (const std::string& line : split(input.print(), &newline, -1)) {
    if (!std::exchange(first, false)) {
      out += "\n";
      if (!line.empty() || given.flag(2, false)) out += margin;
    }
    out += line;
  }
  return out;
}

Value join(const Value& input, const Arguments& arguments) {
  const Parameters given("join", arguments, {"d", "attribute"});
  const std::string between = given.has(0) ? given.require(0).print() : "";
  std::string out;
  bool first = true;
  for (const Value& item : iterate(input)) {
    if (!std::exchange(first, false)) out += between;
    out += (given.has(1) ? attribute(item, given.require(1)) : item).print();
    if (out.size() > kMaxText) fail("the text is longer than {} bytes", kMaxText);
  }
  return out;
}

Value tojson(const Value& input, const Arguments& arguments) {
  const Parameters given("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  if (given.flag(0, false) || given.flag(2, false)) fail("tojson: ensure_ascii and separators are not supported");
  return to_json(input, given.integer(1, -1), given.flag(3, false));
}

// ---- numbers

Value to_integer(const Value& input, const Arguments& arguments) {
  const Parameters given("int", arguments, {"default"});
  const Value zero(int64_t{0});
  if (input.is_float() && std::abs(input.number()) < 9e18) return static_cast<int64_t>(input.number());
  if (input.is_integer() || input.is_bool()) return input.integer("");
  if (!input.is_string()) return given.get(0, zero);
  std::string_view text = strip(input.string(), true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  int64_t value = 0;
  double real = 0;
  const char* end = text.data() + text.size();
  if (auto [at, error] = std::from_chars(text.data(), end, value); error == std::errc() && at == end) return value;
  if (auto [at, error] = std::from_chars(text.data(), end, real);
      error == std::errc() && at == end && std::abs(real) < 9e18)
    return static_cast<int64_t>(real);
  return given.get(0, zero);
}

Value to_float(const Value& input, const Arguments& arguments) {
  const Parameters given("float", arguments, {"default"});
  const Value zero(0.0);
  if (input.is_number()) return input.number();
  if (!input.is_string()) return given.get(0, zero);
  const std::string_view text = strip(input.string(), true, true);
  double value = 0;
  const auto [at, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && at == text.data() + text.size() ? Value(value) : given.get(0, zero);
}

Value absolute(const Value& input, const Arguments&) {
  if (!input.is_number()) fail("abs needs a number, found {}", input.kind());
  return input.number() < 0 ? arithmetic("-", Value(int64_t{0}), input) : input;
}

// ---- lists

Value reverse(const Value& input, const Arguments&) {
  return slice(input.is_dict() ? Value(iterate(input).list) : input, None{}, None{}, Value(int64_t{-1}));
}

Value select(const char* name, const Value& input, const Arguments& arguments, bool by_attribute, bool keep) {
  size_t used = 0;
  if (by_attribute && arguments.positional.empty()) fail("{} needs an attribute", name);
  const Value path = by_attribute ? arguments.positional[used++] : Value();
  const bool tested = used < arguments.positional.size();
  const std::string test = tested ? arguments.positional[used++].string("the name of a test") : "";
  const Arguments others = rest(arguments, used);
  List out;
  for (const Value& item : iterate(input)) {
    const Value subject = by_attribute ? attribute(item, path) : item;
    if ((tested ? apply_test(test, subject, others) : subject.truth()) == keep) out.items.push_back(item);
  }
  return out;
}

Value map_filter(const Value& input, const Arguments& arguments) {
  List out;
  if (arguments.positional.empty()) {
    const Parameters given("map", arguments, {"attribute", "default"});
    for (const Value& item : iterate(input)) {
      const Value value = attribute(item, given.require(0));
      out.items.push_back(value.is_undefined() && given.has(1) ? given.require(1) : value);
    }
    return out;
  }
  const std::string& name = arguments.positional[0].string("the filter of map");
  const Arguments others = rest(arguments, 1);
  for (const Value& item : iterate(input)) out.items.push_back(apply_filter(name, item, others));
  return out;
}

// What is compared: an attribute if asked for, letters in lower case unless case counts.
Value sort_key(const Value& item, const Value* path, bool case_sensitive) {
  Value key = path && !path->is_none() ? attribute(item, *path) : item;
  return key.is_string() && !case_sensitive ? Value(to_lower(key.string())) : key;
}

Value sort(const Value& input, const Arguments& arguments) {
  const Parameters given("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const Value* path = given.has(2) ? &given.require(2) : nullptr;
  const bool case_sensitive = given.flag(1, false);
  List out = *iterate(input).list;
  out.tuple = false;
  const bool down = given.flag(0, false);
  std::stable_sort(out.items.begin(), out.items.end(), [&](const Value& a, const Value& b) {
    return sort_key(down ? b : a, path, case_sensitive) < sort_key(down ? a : b, path, case_sensitive);
  });
  return out;
}

Value dictsort(const Value& input, const Arguments& arguments) {
  const Parameters given("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  if (!input.is_dict()) fail("dictsort needs a dictionary, found {}", input.kind());
  const std::string by = given.has(1) ? given.text(1) : "key";
  if (by != "key" && by != "value") fail("dictsort: by is '{}'; allowed: key, value", by);
  Arguments order;
  order.named = {{"attribute", Value(int64_t{by == "value"})},
                 {"case_sensitive", given.flag(0, false)},
                 {"reverse", given.flag(2, false)}};
  return sort(call_method(input, "items", {}), order);
}

Value unique(const Value& input, const Arguments& arguments) {
  const Parameters given("unique", arguments, {"case_sensitive", "attribute"});
  const Value* path = given.has(1) ? &given.require(1) : nullptr;
  List out;
  std::vector<Value> seen;
  for (const Value& item : iterate(input)) {
    Value key = sort_key(item, path, given.flag(0, false));
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) continue;
    seen.push_back(std::move(key));
    out.items.push_back(item);
  }
  return out;
}

Value extreme(const char* name, const Value& input, const Arguments& arguments, bool largest) {
  const Parameters given(name, arguments, {"case_sensitive", "attribute"});
  const Value* path = given.has(1) ? &given.require(1) : nullptr;
  const bool case_sensitive = given.flag(0, false);
  const auto items = iterate(input).list;
  const Value* best = nullptr;
  for (const Value& item : items->items) {
    if (best) {
      const Value a = sort_key(item, path, case_sensitive);
      const Value b = sort_key(*best, path, case_sensitive);
      if (!(largest ? b < a : a < b)) continue;
    }
    best = &item;
  }
  return best ? *best : Value(Undefined{std::string(name) + " of nothing"});
}

Value sum(const Value& input, const Arguments& arguments) {
  const Parameters given("sum", arguments, {"attribute", "start"});
  Value total = given.get(1, Value(int64_t{0}));
  for (const Value& item : iterate(input))
    total = arithmetic("+", total, given.has(0) ? attribute(item, given.require(0)) : item);
  return total;
}

Value end_of(const char* name, const Value& input, bool last) {
  const auto items = iterate(input).list;
  if (items->items.empty()) return Undefined{std::string(name) + " of nothing"};
  return last ? items->items.back() : items->items.front();
}

Value default_filter(const Value& input, const Arguments& arguments) {
  const Parameters given("default", arguments, {"default_value", "boolean"});
  const bool replace = input.is_undefined() || (given.flag(1, false) && !input.truth());
  return replace ? given.get(0, Value("")) : input;
}

Value to_list(const Value& input, const Arguments&) {
  List out = *iterate(input).list;
  out.tuple = false;
  return out;
}

Value dict_items(const Value& input, const Arguments&) {
  if (input.is_undefined()) return List{};
  if (!input.is_dict()) fail("items needs a dictionary, found {}", input.kind());
  return call_method(input, "items", {});
}

const std::map<std::string, Filter>& filters() {
  static const std::map<std::string, Filter> table = {
      {"abs", absolute},
      {"capitalize", [](const Value& v, const Arguments&) { return Value(capitalize(v.print())); }},
      {"count", [](const Value& v, const Arguments&) { return Value(length(v)); }},
      {"d", default_filter},
      {"default", default_filter},
      {"dictsort", dictsort},
      {"first", [](const Value& v, const Arguments&) { return end_of("first", v, false); }},
      {"float", to_float},
      {"indent", indent},
      {"int", to_integer},
      {"items", dict_items},
      {"join", join},
      {"last", [](const Value& v, const Arguments&) { return end_of("last", v, true); }},
      {"length", [](const Value& v, const Arguments&) { return Value(length(v)); }},
      {"list", to_list},
      {"lower", [](const Value& v, const Arguments&) { return Value(to_lower(v.print())); }},
      {"map", map_filter},
      {"max", [](const Value& v, const Arguments& a) { return extreme("max", v, a, true); }},
      {"min", [](const Value& v, const Arguments& a) { return extreme("min", v, a, false); }},
      {"reject", [](const Value& v, const Arguments& a) { return select("reject", v, a, false, false); }},
      {"rejectattr", [](const Value& v, const Arguments& a) { return select("rejectattr", v, a, true, false); }},
      {"replace", replace_filter},
      {"reverse", reverse},
      {"safe", [](const Value& v, const Arguments&) { return Value(v.print()); }},
      {"select", [](const Value& v, const Arguments& a) { return select("select", v, a, false, true); }},
      {"selectattr", [](const Value& v, const Arguments& a) { return select("selectattr", v, a, true, true); }},
      {"sort", sort},
      {"string", [](const Value& v, const Arguments&) { return Value(v.print()); }},
      {"sum", sum},
      {"title", title_filter},
      {"tojson", tojson},
      {"trim", trim},
      {"unique", unique},
      {"upper", [](const Value& v, const Arguments&) { return Value(to_upper(v.print())); }},
  };
  return table;
}

}  // namespace

Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments) {
  const auto entry = filters().find(name);
  if (entry != filters().end()) return entry->second(input, arguments);
  std::string supported;
  for (const auto& [known, filter] : filters()) supported += (supported.empty() ? "" : ", ") + known;
  fail("the filter '{}' is not supported; supported: {}", name, supported);
}

}  // namespace restkv::jinja
