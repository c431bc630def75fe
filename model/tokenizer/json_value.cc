#include "model/tokenizer/json_value.h"

#include "dist/base/error.h"

namespace restkv {

std::string JsonValue::where() const { return key_.empty() ? *file_ : *file_ + ": " + key_; }

void JsonValue::fail(const std::string& text) const { fail_input("{}: {}", where(), text); }

JsonValue JsonValue::at(const std::string& name) const {
  static const nlohmann::json kNull;
  const auto entry = object().find(name);
  return {entry == value_->end() ? kNull : *entry, *file_, key_.empty() ? name : key_ + "." + name};
}

JsonValue JsonValue::at(size_t index) const { return {array()[index], *file_, fmt::format("{}[{}]", key_, index)}; }

const nlohmann::json& JsonValue::object() const {
  if (!value_->is_object()) fail(fmt::format("found {}, expected an object", value_->type_name()));
  return *value_;
}

const nlohmann::json& JsonValue::array() const {
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
  // nlohmann keeps integers above 2^63 unsigned; they are no ids.
  if (!value_->is_number_integer() || (value_->is_number_unsigned() && value_->get<uint64_t>() > INT64_MAX))
    fail(fmt::format("found {}, expected an integer", value_->dump(-1, ' ', true).substr(0, 40)));
  return value_->get<int64_t>();
}

}  // namespace restkv
