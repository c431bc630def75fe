#include "launch/config/yaml_reader.h"

#include <yaml-cpp/yaml.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "dist/base/error.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

std::string at(const std::string& path, const YAML::Mark& mark) {
  return mark.is_null() ? path : fmt::format("{}:{}", path, mark.line + 1);
}

std::string read_text_file(const std::string& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (in) text << in.rdbuf();
  if (!in || (in.peek(), in.bad()))
    fail_input("{}: cannot read the configuration: {}", path, errno ? std::strerror(errno) : "not a readable file");
  return text.str();
}

/// A leaf: scalar, list of scalars, or a map where none belongs.
Value to_value(const YAML::Node& node, std::string where, std::string key) {
  Value value;
  value.where = std::move(where);
  value.key = std::move(key);
  switch (node.Type()) {
    case YAML::NodeType::Scalar:
      value.text = node.Scalar();
      value.quoted = node.Tag() == "!";
      break;
    case YAML::NodeType::Sequence:
      value.kind = Value::Kind::list;
      for (const YAML::Node& item : node) {
        if (!item.IsScalar())
          fail_input("{}: {}: found a list whose items are not all text, expected texts", value.where, value.key);
        value.items.push_back(item.Scalar());
      }
      break;
    case YAML::NodeType::Map: value.kind = Value::Kind::map; break;
    default: value.kind = Value::Kind::missing;
  }
  return value;
}

void collect(const YAML::Node& map, const std::string& path, const std::string& prefix, int depth,
             std::vector<Value>& out) {
  std::set<std::string> seen;
  for (const auto& entry : map) {
    std::string where = at(path, entry.first.Mark());
    if (!entry.first.IsScalar()) fail_input("{}: found a key that is not text, expected a key's name", where);
    std::string name = prefix + entry.first.Scalar();
    if (!seen.insert(name).second) fail_input("{}: key \"{}\" is given twice", where, name);
    if (entry.second.IsMap() && depth < 8)
      collect(entry.second, path, name + ".", depth + 1, out);
    else
      out.push_back(to_value(entry.second, where, name));
  }
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n') c = ' ';
  return text;
}

}  // namespace

std::vector<Value> read_yaml_values(const std::string& path) {
  std::string text = read_text_file(path);
  require_utf8(text, path);  // yaml-cpp would put U+FFFD there and say nothing
  std::vector<Value> values;
  try {
    std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) fail_input("{}: found {} YAML documents, expected one", path, documents.size());
    if (documents.empty() || documents[0].IsNull()) return values;
    if (!documents[0].IsMap())
      fail_input("{}: found {}, expected sections (model:, cache:, prompt:, ...)", at(path, documents[0].Mark()),
                 documents[0].IsSequence() ? "a list" : "text");
    collect(documents[0], path, "", 0, values);
  } catch (const YAML::Exception& e) {
    fail_input("{}: YAML error at column {}: {}", at(path, e.mark), e.mark.column + 1, one_line(e.msg));
  }
  return values;
}

Value read_override(const std::string& assignment, bool (*literal)(const std::string& key)) {
  require_utf8(assignment, "--set");
  std::string where = "--set " + one_line(assignment);
  size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    fail_input("{}: found no \"key=value\", expected for example --set cache.budget=1024", where);
  std::string key = assignment.substr(0, equals);
  std::string text = assignment.substr(equals + 1);
  bool list = text.starts_with('[');
  if (literal(key) || !list) {
    Value value{where, key, Value::Kind::scalar, text, false, {}};
    if (text.empty() && !literal(key)) value.kind = Value::Kind::missing;
    return value;
  }
  try {
    return to_value(YAML::Load(text), where, key);
  } catch (const YAML::Exception& e) {
    fail_input("{}: YAML error: {}", where, one_line(e.msg));
  }
}

}  // namespace restkv
