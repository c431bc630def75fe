#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "dist/base/error.h"
#include "launch/prompts/prompts.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

using nlohmann::json;

std::string read_whole(const std::string& path, const char* key) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) fail_input("{}: {}: found a directory, expected a file", path, key);
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (in.peek() != std::ifstream::traits_type::eof()) text << in.rdbuf();
  bool readable = in.is_open() && !in.bad();
  if (!readable) fail_input("{}: {}: cannot read the file: {}", path, key, std::strerror(errno ? errno : EIO));
  std::string whole = text.str();
  if (whole.starts_with("\xef\xbb\xbf")) whole.erase(0, 3);  // a byte order mark is no part of the text
  return whole;
}

std::string required_text(const json& object, const char* key, const std::string& where) {
  auto it = object.find(key);
  if (it == object.end()) fail_input("{}: found no \"{}\", expected text there", where, key);
  if (!it->is_string()) fail_input("{}: \"{}\": found {}, expected text", where, key, it->type_name());
  return it->get<std::string>();
}

std::vector<ChatMessage> read_messages(const json& list, const std::string& where) {
  if (!list.is_array() || list.empty())
    fail_input("{}: \"messages\": found {}, expected a list of at least one {{\"role\": ..., \"content\": ...}}", where,
               list.is_array() ? "an empty list" : list.type_name());
  std::vector<ChatMessage> messages;
  for (const json& message : list) {
    if (!message.is_object())
      fail_input("{}: \"messages\" holds {}, expected objects with \"role\" and \"content\"", where,
                 message.type_name());
    messages.push_back({required_text(message, "role", where), required_text(message, "content", where)});
  }
  return messages;
}

PromptSource read_line(std::string_view line, const std::string& where) {
  json object;
  try {
    object = json::parse(line);
  } catch (const json::exception& e) {
    fail_input("{}: not a JSON object: {}", where, e.what());
  }
  if (!object.is_object())
    fail_input("{}: found {}, expected a JSON object with \"prompt\" or \"messages\"", where, object.type_name());
  if (object.contains("prompt") == object.contains("messages"))
    fail_input("{}: found {} \"prompt\" {} \"messages\", expected exactly one", where,
               object.contains("prompt") ? "both" : "neither", object.contains("prompt") ? "and" : "nor");
  PromptSource prompt;
  prompt.origin = where;
  if (auto id = object.find("id"); id != object.end()) {
    bool known = id->is_string() || id->is_number_integer();
    if (!known) fail_input("{}: \"id\": found {}, expected text or an integer", where, id->type_name());
    prompt.id = id->is_string() ? id->get<std::string>() : id->dump();
  }
  if (auto questions = object.find("questions"); questions != object.end()) {
    if (!questions->is_array() || questions->empty())
      fail_input("{}: \"questions\": found {}, expected a list of at least one text", where,
                 questions->is_array() ? "an empty list" : questions->type_name());
    if (object.contains("messages"))
      fail_input("{}: found \"questions\" with \"messages\", expected them with \"prompt\"", where);
    for (const json& question : *questions) {
      if (!question.is_string() || question.get<std::string>().empty())
        fail_input("{}: \"questions\" holds {}, expected texts of at least one character", where,
                   question.is_string() ? "an empty text" : question.type_name());
      prompt.questions.push_back(question.get<std::string>());
    }
  }
  if (object.contains("messages")) {
    prompt.messages = read_messages(object["messages"], where);
    return prompt;
  }
  prompt.text = required_text(object, "prompt", where);
  if (prompt.text.empty()) fail_input("{}: the prompt is empty; expected at least one character", where);
  return prompt;
}

std::vector<PromptSource> read_jsonl(const std::string& path) {
  std::string whole = read_whole(path, "prompt.jsonl");
  std::vector<PromptSource> prompts;
  std::string_view rest = whole;
  for (int64_t number = 1; !rest.empty(); ++number) {
    size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    std::string where = fmt::format("{}:{}", path, number);
    require_utf8(line, where);
    prompts.push_back(read_line(line, where));
  }
  if (prompts.empty()) fail_input("{}: prompt.jsonl: found no prompts, expected one JSON object a line", path);
  return prompts;
}

}  // namespace

std::vector<PromptSource> read_prompts(const RunConfig& config) {
  const auto& p = config.prompt;
  if (!p.jsonl.empty()) return read_jsonl(p.jsonl);
  PromptSource prompt;
  if (p.file.empty()) {
    prompt.origin = fmt::format("{}: prompt.text", config.file);
    prompt.text = p.text;
  } else {
    prompt.origin = p.file;
    prompt.text = read_whole(p.file, "prompt.file");
  }
  require_utf8(prompt.text, prompt.origin);
  prompt.questions = p.questions;
  for (const std::string& question : prompt.questions)
    require_utf8(question, fmt::format("{}: prompt.questions", config.file));
  if (prompt.text.empty()) fail_input("{}: the prompt is empty; expected at least one character", prompt.origin);
  return {prompt};
}

}  // namespace restkv
