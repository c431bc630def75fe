// Typed access to JSON with errors that name the file and the key.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace restkv {

/// One value of a JSON file and the way to it.
class JsonValue {
 public:
  /// The value and the file's name must outlive this.
  JsonValue(const nlohmann::json& value, const std::string& file, std::string key)
      : value_(&value), file_(&file), key_(std::move(key)) {}

  /// A member of an object; null where it is absent. Throws InputError when this is not an object.
  JsonValue at(const std::string& name) const;
  JsonValue at(size_t index) const;
  size_t size() const { return value_->size(); }

  bool is_null() const { return value_->is_null(); }
  bool is_object() const { return value_->is_object(); }
  bool is_string() const { return value_->is_string(); }
  bool is_array() const { return value_->is_array(); }

  /// These throw InputError for another type; with a fallback, null gives the fallback.
  const std::string& string() const;
  std::string string_or(const std::string& fallback) const { return is_null() ? fallback : string(); }
  bool boolean_or(bool fallback) const;
  int64_t integer() const;
  const nlohmann::json& array() const;
  const nlohmann::json& object() const;

  const nlohmann::json& json() const { return *value_; }
  /// Throws InputError "file: key: text".
  [[noreturn]] void fail(const std::string& text) const;
  /// "file: key"
  std::string where() const;

 private:
  const nlohmann::json* value_;
  const std::string* file_;
  std::string key_;
};

}  // namespace restkv
