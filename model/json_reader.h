// JSON from files that users bring: every complaint names the file and the key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace restkv {

/// Parses a text whose top level must be an object. `origin` names it in messages. Throws InputError for a syntax error
/// and for a key that occurs twice in one object.
nlohmann::json parse_json_object(std::string_view text, const std::string& origin);

/// The same from a file.
nlohmann::json read_json_object(const std::string& path);

/// Typed access to one object. A key that is missing or null is absent: the forms without a default throw InputError.
/// The object must outlive its reader.
class JsonReader {
 public:
  /// `prefix`: the path to this object, with its dot ("rope_scaling."), for messages.
  JsonReader(const nlohmann::json& object, std::string file, std::string prefix = "")
      : object_(&object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  const std::string& file() const { return file_; }
  bool has(const std::string& key) const;
  bool stands(const std::string& key) const;  ///< whether the key is there, be it null

  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t otherwise) const;
  double number(const std::string& key) const;
  double number(const std::string& key, double otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  /// An integer, or a list of integers.
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<std::string> texts(const std::string& key) const;
  JsonReader object(const std::string& key) const;

  /// Throws InputError: "FILE: key PREFIXkey: found VALUE; ALLOWED".
  [[noreturn]] void reject(const std::string& key, const std::string& allowed) const;

 private:
  const nlohmann::json& at(const std::string& key, const char* wanted) const;

  const nlohmann::json* object_;
  std::string file_;
  std::string prefix_;
};

/// One value of a JSON file and the way to it, for files whose structure goes deep (tokenizers): messages read
/// "FILE: key.key[3]: what was found and what is expected".
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
