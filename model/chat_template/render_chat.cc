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

}  // namespace

std::string render_chat(const std::string& source, const std::string& origin, const std::vector<ChatMessage>& messages,
                        bool add_generation_prompt, const std::string& bos_text, const std::string& eos_text,
                        const std::tm* now) {
  require_utf8(source, origin + ": chat template");
  jinja::Renderer renderer;
  for (auto& [name, function] : jinja::global_functions(now ? *now : local_time())) renderer.set(name, function);
  renderer.set("messages", messages_value(messages));
  renderer.set("add_generation_prompt", add_generation_prompt);
  renderer.set("bos_token", bos_text);
  renderer.set("eos_token", eos_text);
  // Named in every rendering, with nothing in them.
  renderer.set("tools", jinja::None{});
  renderer.set("documents", jinja::None{});
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

}  // namespace restkv
