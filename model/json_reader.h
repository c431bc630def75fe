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

}  // namespace restkv
