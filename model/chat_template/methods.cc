#include <algorithm>
#include <charconv>
#include <map>

#include "model/chat_template/builtins.h"
#include "model/chat_template/error.h"
#include "model/chat_template/text.h"

namespace restkv::jinja {
namespace {

using Method = Value (*)(const Value& self, const Arguments& arguments);

Value strip_method(const char* name, const Value& self, const Arguments& arguments, bool left, bool right) {
  const Parameters given(name, arguments, {"chars"});
  if (!given.has(0) || given.require(0).is_none()) return strip(self.string(), left, right);
  return strip(self.string(), given.text(0), left, right);
}

Value to_values(const std::vector<std::string>& texts) {
  List out;
  for (const std::string& text : texts) out.items.emplace_back(text);
  return out;
}

Value split_method(const Value& self, const Arguments& arguments) {
  const Parameters given("split()", arguments, {"sep", "maxsplit"});
  const bool spaces = !given.has(0) || given.require(0).is_none();
  if (!spaces && given.text(0).empty()) fail("split(): the separator is empty");
  return to_values(split(self.string(), spaces ? nullptr : &given.text(0), given.integer(1, -1)));
}

Value rsplit_method(const Value& self, const Arguments& arguments) {
  const Parameters given("rsplit()", arguments, {"sep", "maxsplit"});
  const std::string& separator = given.text(0);
  if (separator.empty()) fail("rsplit(): the separator is empty");
  std::vector<std::string> parts;
  std::string_view text = self.string();
  size_t at;
  for (int64_t left = given.integer(1, -1); left != 0 && (at = text.rfind(separator)) != text.npos; --left) {
    parts.emplace_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return to_values(parts);
}

Value splitlines(const Value& self, const Arguments& arguments) {
  const Parameters given("splitlines()", arguments, {"keepends"});
  if (given.flag(0, false)) fail("splitlines(): keepends is not supported");
  std::vector<std::string> lines(1);
  const auto all = characters(self.string());
  for (size_t i = 0; i < all.size(); ++i) {
    static constexpr std::string_view kEnds[] = {"\n",   "\r",   "\v",     "\f",     "\x1c",
                                                 "\x1d", "\x1e", "\u0085", "\u2028", "\u2029"};
    if (std::find(std::begin(kEnds), std::end(kEnds), all[i]) == std::end(kEnds)) {
      lines.back() += all[i];
      continue;
    }
    if (all[i] == "\r" && i + 1 < all.size() && all[i + 1] == "\n") ++i;
    lines.emplace_back();
  }
  if (lines.back().empty()) lines.pop_back();
  return to_values(lines);
}

// startswith and endswith take one text or a tuple of them.
Value affix(const char* name, const Value& self, const Arguments& arguments, bool at_end) {
  const Parameters given(name, arguments, {"prefix"});
  const Value& wanted = given.require(0);
  const std::vector<Value> list = wanted.is_list() ? wanted.list().items : std::vector<Value>{wanted};
  return std::any_of(list.begin(), list.end(), [&](const Value& text) {
    const std::string& affix = text.string(given.what(0));
    return at_end ? self.string().ends_with(affix) : self.string().starts_with(affix);
  });
}

Value find_method(const char* name, const Value& self, const Arguments& arguments, bool last) {
  const Parameters given(name, arguments, {"sub"});
  const size_t at = last ? self.string().rfind(given.text(0)) : self.string().find(given.text(0));
  return at == std::string::npos ? int64_t{-1} : text_length(std::string_view(self.string()).substr(0, at));
}

Value count_method(const Value& self, const Arguments& arguments) {
  const Parameters given("count()", arguments, {"sub"});
  const std::string& wanted = given.text(0);
  if (wanted.empty()) return text_length(self.string()) + 1;
  int64_t count = 0;
  for (size_t at = 0; (at = self.string().find(wanted, at)) != std::string::npos; at += wanted.size()) ++count;
  return count;
}

Value join_method(const Value& self, const Arguments& arguments) {
  const Parameters given("join()", arguments, {"iterable"});
  std::string out;
  bool first = true;
  for (const Value& item : iterate(given.require(0))) {
    if (!std::exchange(first, false)) out += self.string();
    out += item.string("what join() joins");
  }
  return out;
}

// {}, {0} and {name}, without conversions and format specifications.
Value format_method(const Value& self, const Arguments& arguments) {
  const std::string& text = self.string();
  std::string out;
  size_t next = 0;
  const auto field = [&](std::string_view name) -> const Value& {
    size_t index = next;
    const char* end = name.data() + name.size();
    const bool numbered = std::from_chars(name.data(), end, index).ptr == end && !name.empty();
    if (name.empty()) ++next;
    if (name.empty() || numbered) {
      if (index >= arguments.positional.size()) fail("format(): there is no argument {}", index);
      return arguments.positional[index];
    }
    for (const auto& [known, value] : arguments.named)
      if (known == name) return value;
    fail("format(): the field '{{{}}}' is not supported; supported: a position or the name of an argument", name);
  };
  for (size_t at = 0; at < text.size(); ++at) {
    const bool doubled = at + 1 < text.size() && text[at + 1] == text[at];
    if ((text[at] == '{' || text[at] == '}') && doubled) {
      out += text[at++];
    } else if (text[at] == '{') {
      const size_t end = text.find('}', at);
      if (end == std::string::npos) fail("format(): a '{{' is not closed");
      out += field(std::string_view(text).substr(at + 1, end - at - 1)).print();
      at = end;
    } else if (text[at] == '}') {
      fail("format(): a '}}' is not opened");
    } else {
      out += text[at];
    }
  }
  return out;
}

bool all_of(const Value& self, bool (*holds)(char)) {
  return !self.string().empty() && std::all_of(self.string().begin(), self.string().end(), holds);
}

using V = const Value&;
using A = const Arguments&;

const std::map<std::string, Method>& string_methods() {
  static const std::map<std::string, Method> table = {
      {"capitalize", [](V v, A) { return Value(capitalize(v.string())); }},
      {"count", count_method},
      {"endswith", [](V v, A a) { return affix("endswith()", v, a, true); }},
      {"find", [](V v, A a) { return find_method("find()", v, a, false); }},
      {"format", format_method},
      {"isdigit", [](V v, A) { return Value(all_of(v, [](char c) { return c >= '0' && c <= '9'; })); }},
      {"isspace", [](V v, A) { return Value(!v.string().empty() && strip(v.string(), true, false).empty()); }},
      {"join", join_method},
      {"lower", [](V v, A) { return Value(to_lower(v.string())); }},
      {"lstrip", [](V v, A a) { return strip_method("lstrip()", v, a, true, false); }},
      {"replace",
       [](V v, A a) {
         const Parameters given("replace()", a, {"old", "new", "count"});
         return Value(replace(v.string(), given.text(0), given.text(1), given.integer(2, -1)));
       }},
      {"rfind", [](V v, A a) { return find_method("rfind()", v, a, true); }},
      {"rsplit", rsplit_method},
      {"rstrip", [](V v, A a) { return strip_method("rstrip()", v, a, false, true); }},
      {"split", split_method},
      {"splitlines", splitlines},
      {"startswith", [](V v, A a) { return affix("startswith()", v, a, false); }},
      {"strip", [](V v, A a) { return strip_method("strip()", v, a, true, true); }},
      {"title", [](V v, A) { return Value(title(v.string())); }},
      {"upper", [](V v, A) { return Value(to_upper(v.string())); }},
  };
  return table;
}

Value dict_get(const Value& self, const Arguments& arguments) {
  const Parameters given("get()", arguments, {"key", "default"});
  const Value* found = self.dict().find(given.require(0));
  return found ? *found : given.get(1, None{});
}

Value dict_items(const Value& self, const Arguments&) {
  List out;
  for (const auto& [key, value] : self.dict().items) out.items.push_back(List{{key, value}, true});
  return out;
}

Value dict_values(const Value& self, const Arguments&) {
  List out;
  for (const auto& item : self.dict().items) out.items.push_back(item.second);
  return out;
}

const std::map<std::string, Method>& dict_methods() {
  static const std::map<std::string, Method> table = {
      {"get", dict_get},
      {"items", dict_items},
      {"keys", [](V v, A) { return Value(iterate(v).list); }},
      {"values", dict_values},
  };
  return table;
}

Value list_index(const Value& self, const Arguments& arguments) {
  const Parameters given("index()", arguments, {"value"});
  const auto& items = self.list().items;
  const auto at = std::find(items.begin(), items.end(), given.require(0));
  if (at == items.end()) fail("index(): the list has no such value");
  return static_cast<int64_t>(at - items.begin());
}

Value list_count(const Value& self, const Arguments& arguments) {
  const Parameters given("count()", arguments, {"value"});
  return static_cast<int64_t>(std::count(self.list().items.begin(), self.list().items.end(), given.require(0)));
}

const std::map<std::string, Method>& list_methods() {
  static const std::map<std::string, Method> table = {{"count", list_count}, {"index", list_index}};
  return table;
}

const Method* find(const Value& object, const std::string& name) {
  static const std::map<std::string, Method> none;
  const auto& table = object.is_string() ? string_methods()
                      : object.is_dict() ? dict_methods()
                      : object.is_list() ? list_methods()
                                         : none;
  const auto entry = table.find(name);
  return entry == table.end() ? nullptr : &entry->second;
}

}  // namespace

bool has_method(const Value& object, const std::string& name) { return find(object, name) != nullptr; }

Value call_method(const Value& object, const std::string& name, const Arguments& arguments) {
  return (*find(object, name))(object, arguments);
}

}  // namespace restkv::jinja
