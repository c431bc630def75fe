#include <nlohmann/json.hpp>

#include "dist/base/error.h"
#include "model/chat_template.h"
#include "model/chat_template/builtins.h"
#include "model/chat_template/error.h"
#include "model/chat_template/parser.h"
#include "model/chat_template/renderer.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

jinja::Value messages_value(const std::vector<ChatMessage>& messages) {
  jinja::List list;
  for (size_t i = 0; i < messages.size(); ++i) {
    require_utf8(messages[i].role, fmt::format("the role of message {}", i + 1));
    require_utf8(messages[i].content, fmt::format("message {}", i + 1));
    jinja::Dict message;
    message.set("role", messages[i].role);
    message.set("content", messages[i].content);
    list.items.emplace_back(std::move(message));
  }
  return list;
}

std::tm local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm out{};
  localtime_r(&now, &out);
  return out;
}

jinja::Value to_value(const nlohmann::ordered_json& json, const std::string& where, int depth) {
  constexpr int kMaxDepth = 64;  // bounds the stack
  if (depth > kMaxDepth) fail_input("{}: nested deeper than {} levels", where, kMaxDepth);
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::null: return jinja::None{};
    case nlohmann::ordered_json::value_t::boolean: return json.get<bool>();
    case nlohmann::ordered_json::value_t::number_float: return json.get<double>();
    case nlohmann::ordered_json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) fail_input("{}: the number {} is too large", where, json.get<uint64_t>());
      return json.get<int64_t>();
    case nlohmann::ordered_json::value_t::number_integer: return json.get<int64_t>();
    case nlohmann::ordered_json::value_t::string:
      require_utf8(json.get_ref<const std::string&>(), where);
      return json.get_ref<const std::string&>();
    case nlohmann::ordered_json::value_t::array: {
      jinja::List list;
      for (const auto& item : json) list.items.push_back(to_value(item, where, depth + 1));
      return list;
    }
    case nlohmann::ordered_json::value_t::object: {
      jinja::Dict dict;
      for (const auto& [key, item] : json.items()) {
        require_utf8(key, where);
        dict.set(key, to_value(item, where, depth + 1));
      }
      return dict;
    }
    default: fail_input("{}: found {}, which templates do not know", where, json.type_name());
  }
}

std::string render(jinja::Renderer& renderer, const std::string& source, const std::string& origin,
                   const std::tm* now) {
  require_utf8(source, origin + ": chat template");
  for (auto& [name, function] : jinja::global_functions(now ? *now : local_time())) renderer.set(name, function);
  try {
    const jinja::Body body = jinja::parse(source);
    std::string out;
    renderer.render(body, out);
    return out;
  } catch (const jinja::TemplateError& error) {
    if (error.raised) fail_input("{}: the chat template refuses these messages: {}", origin, error.text);
    fail_input("{}: chat template, line {}: {}", origin, error.line, error.text);
  }
}

}  // namespace

std::string render_chat(const std::string& source, const std::string& origin, const std::vector<ChatMessage>& messages,
                        bool add_generation_prompt, const std::string& bos_text, const std::string& eos_text,
                        const std::tm* now) {
  jinja::Renderer renderer;
  renderer.set("messages", messages_value(messages));
  renderer.set("add_generation_prompt", add_generation_prompt);
  renderer.set("bos_token", bos_text);
  renderer.set("eos_token", eos_text);
  // Named in every rendering, with nothing in them.
  renderer.set("tools", jinja::None{});
  renderer.set("documents", jinja::None{});
  return render(renderer, source, origin, now);
}

std::string render_template(const std::string& source, const std::string& origin,
                            const nlohmann::ordered_json& variables, const std::tm* now) {
  jinja::Renderer renderer;
  renderer.set("tools", jinja::None{});
  renderer.set("documents", jinja::None{});
  if (!variables.is_object()) fail_input("{}: chat template: the variables are no JSON object", origin);
  for (const auto& [name, value] : variables.items())
    renderer.set(name, to_value(value, fmt::format("the template variable {}", name), 0));
  return render(renderer, source, origin, now);
}

}  // namespace restkv
