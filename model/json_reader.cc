#include "model/json_reader.h"

#include <set>

#include "dist/base/error.h"
#include "model/weights/mapped_file.h"

namespace restkv {

using nlohmann::json;

namespace {

constexpr int kMaxDepth = 64;  // no model file comes near; printing a value needs stack in proportion

/// A value as messages show it: long ones are cut.
std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

/// nlohmann keeps whole numbers above 2^63 unsigned.
bool is_int64(const json& value) {
  return value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
}

}  // namespace

json parse_json_object(std::string_view text, const std::string& origin) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  auto callback = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > kMaxDepth) fail_input("{}: nested deeper than {} levels", origin, kMaxDepth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      fail_input("{}: key {} occurs twice in one object", origin, shown(value));
    return true;
  };
  json value;
  try {
    value = json::parse(text.begin(), text.end(), callback);
  } catch (const json::exception& e) {
    fail_input("{}: not valid JSON: {}", origin, e.what());
  }
  if (!value.is_object()) fail_input("{}: the top level is {}; an object is needed", origin, value.type_name());
  return value;
}

json read_json_object(const std::string& path) {
  MappedFile file(path);
  return parse_json_object({reinterpret_cast<const char*>(file.data()), static_cast<size_t>(file.size())}, path);
}

bool JsonReader::has(const std::string& key) const {
  auto it = object_->find(key);
  return it != object_->end() && !it->is_null();
}

bool JsonReader::stands(const std::string& key) const { return object_->contains(key); }

const json& JsonReader::at(const std::string& key, const char* wanted) const {
  if (!has(key)) fail_input("{}: key {}{} is missing; {} is needed", file_, prefix_, key, wanted);
  return (*object_)[key];
}

void JsonReader::reject(const std::string& key, const std::string& allowed) const {
  fail_input("{}: key {}{}: found {}; {}", file_, prefix_, key, has(key) ? shown((*object_)[key]) : "nothing", allowed);
}

int64_t JsonReader::integer(const std::string& key) const {
  const json& value = at(key, "an integer");
  if (!is_int64(value)) reject(key, "an integer is needed");
  return value.get<int64_t>();
}

int64_t JsonReader::integer(const std::string& key, int64_t otherwise) const {
  return has(key) ? integer(key) : otherwise;
}

double JsonReader::number(const std::string& key) const {
  const json& value = at(key, "a number");
  if (!value.is_number()) reject(key, "a number is needed");
  return value.get<double>();
}

double JsonReader::number(const std::string& key, double otherwise) const { return has(key) ? number(key) : otherwise; }

bool JsonReader::boolean(const std::string& key, bool otherwise) const {
  if (!has(key)) return otherwise;
  if (!(*object_)[key].is_boolean()) reject(key, "true or false is needed");
  return (*object_)[key].get<bool>();
}

std::string JsonReader::text(const std::string& key) const {
  const json& value = at(key, "a string");
  if (!value.is_string()) reject(key, "a string is needed");
  return value.get<std::string>();
}

std::string JsonReader::text(const std::string& key, const std::string& otherwise) const {
  return has(key) ? text(key) : otherwise;
}

std::vector<int64_t> JsonReader::integers(const std::string& key) const {
  const json& value = at(key, "an integer or a list of integers");
  if (!value.is_array()) return {integer(key)};
  std::vector<int64_t> all;
  for (const json& item : value) {
    if (!is_int64(item)) reject(key, "an integer or a list of integers is needed");
    all.push_back(item.get<int64_t>());
  }
  return all;
}

std::vector<std::string> JsonReader::texts(const std::string& key) const {
  const json& value = at(key, "a list of strings");
  if (!value.is_array()) reject(key, "a list of strings is needed");
  std::vector<std::string> all;
  for (const json& item : value) {
    if (!item.is_string()) reject(key, "a list of strings is needed");
    all.push_back(item.get<std::string>());
  }
  return all;
}

JsonReader JsonReader::object(const std::string& key) const {
  const json& value = at(key, "an object");
  if (!value.is_object()) reject(key, "an object is needed");
  return {value, file_, prefix_ + key + "."};
}

std::string JsonValue::where() const { return key_.empty() ? *file_ : *file_ + ": " + key_; }

void JsonValue::fail(const std::string& text) const { fail_input("{}: {}", where(), text); }

JsonValue JsonValue::at(const std::string& name) const {
  static const nlohmann::json kNull;
  const auto entry = object().find(name);
  return {entry == value_->end() ? kNull : *entry, *file_, key_.empty() ? name : key_ + "." + name};
}

JsonValue JsonValue::at(size_t index) const { return {array()[index], *file_, fmt::format("{}[{}]", key_, index)}; }

const json& JsonValue::object() const {
  if (!value_->is_object()) fail(fmt::format("found {}, expected an object", value_->type_name()));
  return *value_;
}

const json& JsonValue::array() const {
  if (!value_->is_array()) fail(fmt::format("found {}, expected an array", value_->type_name()));
  return *value_;
}

const std::string& JsonValue::string() const {
  if (!value_->is_string()) fail(fmt::format("found {}, expected a string", value_->type_name()));
  return value_->get_ref<const std::string&>();
}

bool JsonValue::boolean_or(bool fallback) const {
  if (is_null()) return fallback;
  if (!value_->is_boolean()) fail(fmt::format("found {}, expected true or false", value_->type_name()));
  return value_->get<bool>();
}

int64_t JsonValue::integer() const {
  if (!is_int64(*value_)) fail(fmt::format("found {}, expected an integer", shown(*value_)));
  return value_->get<int64_t>();
}

}  // namespace restkv
