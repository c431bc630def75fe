#include "model/chat_template/value.h"

#include <algorithm>
#include <cmath>

#include "model/chat_template/error.h"
#include "model/chat_template/text.h"

namespace restkv::jinja {

const Value* Dict::find(const Value& key) const {
  for (const auto& [name, value] : items)
    if (name == key) return &value;
  return nullptr;
}

void Dict::set(Value key, Value value) {
  for (auto& [name, old] : items) {
    if (!(name == key)) continue;
    old = std::move(value);
    return;
  }
  items.emplace_back(std::move(key), std::move(value));
}

const char* Value::kind() const {
  static constexpr const char* kNames[] = {"an undefined value", "none",   "a boolean",    "an integer",  "a float",
                                           "a string",           "a list", "a dictionary", "a namespace", "the loop",
                                           "a function"};
  return kNames[data_.index()];
}

int64_t Value::integer(const std::string& what) const {
  if (is_bool()) return std::get<bool>(data_);
  if (!is_integer()) fail("{} must be an integer, found {}", what, kind());
  return std::get<int64_t>(data_);
}

double Value::number() const {
  if (is_bool()) return std::get<bool>(data_);
  return is_integer() ? static_cast<double>(std::get<int64_t>(data_)) : std::get<double>(data_);
}

const std::string& Value::string(const std::string& what) const {
  if (is_undefined()) fail("'{}' is undefined, but {} must be a string", undefined().name, what);
  if (!is_string()) fail("{} must be a string, found {}", what, kind());
  return string();
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0;
  if (is_string()) return !string().empty();
  if (is_list()) return !list().items.empty();
  if (is_dict()) return !dict().items.empty();
  return true;
}

std::string Value::print() const {
  if (is_undefined()) return {};
  return is_string() ? string() : repr();
}

std::string Value::repr() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "None";
  if (is_bool()) return std::get<bool>(data_) ? "True" : "False";
  if (is_integer()) return fmt::format("{}", std::get<int64_t>(data_));
  if (is_float()) return format_float(std::get<double>(data_));
  if (is_string()) return quote_python(string());
  std::string out;
  if (is_list()) {
    for (const Value& item : list().items) out += (out.empty() ? "" : ", ") + item.repr();
    if (!list().tuple) return "[" + out + "]";
    return "(" + out + (list().items.size() == 1 ? ",)" : ")");
  }
  if (is_dict()) {
    for (const auto& [key, value] : dict().items) out += (out.empty() ? "" : ", ") + key.repr() + ": " + value.repr();
    return "{" + out + "}";
  }
  fail("{} cannot be printed", kind());
}

bool Value::operator==(const Value& other) const {
  if (is_number() && other.is_number()) {
    if (is_float() || other.is_float()) return number() == other.number();
    return integer("") == other.integer("");
  }
  if (data_.index() != other.data_.index()) return false;
  if (is_undefined() || is_none()) return true;
  if (is_string()) return string() == other.string();
  if (is_list()) return list().tuple == other.list().tuple && list().items == other.list().items;
  if (is_dict()) {
    if (dict().items.size() != other.dict().items.size()) return false;
    for (const auto& [key, value] : dict().items) {
      const Value* match = other.dict().find(key);
      if (!match || !(*match == value)) return false;
    }
    return true;
  }
  return name_space() == other.name_space() && loop() == other.loop() && function() == other.function();
}

bool Value::operator<(const Value& other) const {
  if (is_number() && other.is_number()) {
    if (is_float() || other.is_float()) return number() < other.number();
    return integer("") < other.integer("");
  }
  if (is_string() && other.is_string()) return string() < other.string();  // byte order is code point order in UTF-8
  if (is_list() && other.is_list() && list().tuple == other.list().tuple)
    return std::lexicographical_compare(list().items.begin(), list().items.end(), other.list().items.begin(),
                                        other.list().items.end());
  fail("{} and {} cannot be ordered", kind(), other.kind());
}

Items iterate(const Value& value) {
  if (value.is_list()) return {value.shared_list()};
  auto out = std::make_shared<List>();
  if (value.is_dict()) {
    for (const auto& item : value.dict().items) out->items.push_back(item.first);
  } else if (value.is_string()) {
    for (const std::string_view c : characters(value.string())) out->items.emplace_back(c);
  } else if (!value.is_undefined()) {
    fail("{} cannot be iterated over", value.kind());
  }
  return {std::move(out)};
}

int64_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) return text_length(value.string());
  if (value.is_list()) return static_cast<int64_t>(value.list().items.size());
  if (value.is_dict()) return static_cast<int64_t>(value.dict().items.size());
  fail("{} has no length", value.kind());
}

bool contains(const Value& hay, const Value& needle) {
  if (hay.is_undefined()) return false;
  if (hay.is_string()) return hay.string().find(needle.string("the left side of 'in' a string")) != std::string::npos;
  if (hay.is_dict()) return hay.dict().find(needle) != nullptr;
  if (!hay.is_list()) fail("the right side of 'in' is {}", hay.kind());
  const auto& items = hay.list().items;
  return std::find(items.begin(), items.end(), needle) != items.end();
}

Value subscript(const Value& hay, const Value& key) {
  if (hay.is_undefined()) fail("'{}' is undefined", hay.undefined().name);
  const auto missing = [&] { return Value(Undefined{key.is_string() ? key.string() : "element " + key.repr()}); };
  if (hay.is_dict()) {
    const Value* found = hay.dict().find(key);
    return found ? *found : missing();
  }
  if (const Namespace* space = hay.name_space()) {
    const Value* found = space->members.find(key);
    return found ? *found : missing();
  }
  if (!(key.is_integer() || key.is_bool()) || !(hay.is_list() || hay.is_string())) return missing();
  const int64_t count = length(hay);
  int64_t index = key.integer("");
  if (index < 0) index += count;
  if (index < 0 || index >= count) return missing();
  return hay.is_list() ? hay.list().items[index] : Value(characters(hay.string())[index]);
}

Value slice(const Value& hay, const Value& begin, const Value& end, const Value& step_value) {
  if (hay.is_undefined()) fail("'{}' is undefined", hay.undefined().name);
  if (!hay.is_list() && !hay.is_string()) fail("{} cannot be sliced", hay.kind());
  const int64_t step = step_value.is_none() ? 1 : step_value.integer("the step of a slice");
  if (step == 0) fail("the step of a slice is zero");
  const int64_t count = length(hay);
  const int64_t low = step > 0 ? 0 : -1;
  const int64_t high = step > 0 ? count : count - 1;
  const auto bound = [&](const Value& value, int64_t open) {
    if (value.is_none()) return open;
    const int64_t index = value.integer("the bound of a slice");
    return std::clamp(index < 0 ? (index < -count ? low : index + count) : index, low, high);
  };
  const int64_t from = bound(begin, step > 0 ? low : high);
  const int64_t to = bound(end, step > 0 ? high : low);
  const auto take = [&](auto&& use) {
    if (step > 0) {
      for (int64_t i = from; i<to; i = step> to - i ? to : i + step) use(i);
    } else {
      for (int64_t i = from; i > to; i = step < to - i ? to : i + step) use(i);
    }
  };
  if (hay.is_string()) {
    const auto all = characters(hay.string());
    std::string out;
    take([&](int64_t i) { out += all[i]; });
    return out;
  }
  List out;
  out.tuple = hay.list().tuple;
  take([&](int64_t i) { out.items.push_back(hay.list().items[i]); });
  return out;
}

namespace {

struct JsonWriter {
  int64_t indent;
  bool sort_keys;
  std::string out;

  void line(int64_t depth) {
    if (indent < 0) return;
    out.push_back('\n');
    out.append(static_cast<size_t>(indent * depth), ' ');
  }
  void comma() { out += indent < 0 ? ", " : ","; }

  static std::string key_text(const Value& key) {
    if (key.is_string()) return key.string();
    if (key.is_none()) return "null";
    if (key.is_bool()) return key.truth() ? "true" : "false";
    return key.repr();
  }

  void write(const Value& value, int64_t depth) {
    if (value.is_string()) {
      out += quote_json(value.string());
    } else if (value.is_none() || value.is_bool()) {
      out += key_text(value);
    } else if (value.is_float() && !std::isfinite(value.number())) {
      out += std::isnan(value.number()) ? "NaN" : value.number() > 0 ? "Infinity" : "-Infinity";
    } else if (value.is_number()) {
      out += value.repr();
    } else if (value.is_list()) {
      write_list(value.list(), depth);
    } else if (value.is_dict()) {
      write_dict(value.dict(), depth);
    } else {
      fail("tojson: {} has no JSON form", value.kind());
    }
  }

  void write_list(const List& list, int64_t depth) {
    if (list.items.empty()) {
      out += "[]";
      return;
    }
    out.push_back('[');
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) comma();
      line(depth + 1);
      write(list.items[i], depth + 1);
    }
    line(depth);
    out.push_back(']');
  }

  void write_dict(const Dict& dict, int64_t depth) {
    if (dict.items.empty()) {
      out += "{}";
      return;
    }
    auto items = dict.items;
    if (sort_keys)
      std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    out.push_back('{');
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) comma();
      line(depth + 1);
      out += quote_json(key_text(items[i].first)) + ": ";
      write(items[i].second, depth + 1);
    }
    line(depth);
    out.push_back('}');
  }
};

}  // namespace

std::string to_json(const Value& value, int64_t indent, bool sort_keys) {
  if (indent > 64) fail("tojson: indent {} is too large; allowed: up to 64", indent);
  JsonWriter writer{indent, sort_keys, {}};
  writer.write(value, 0);
  return std::move(writer.out);
}

}  // namespace restkv::jinja
