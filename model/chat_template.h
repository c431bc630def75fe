// A model's own chat template (the subset of Jinja that model files use), rendered to the prompt text.
#pragma once

#include <ctime>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace restkv {

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant"
  std::string content;
};

/// `source`: the template text. `origin`: the file it came from, for messages. `now`: what strftime_now() in the
/// template reports; null: the local time.
/// The variables of the template are messages, add_generation_prompt, bos_token, eos_token, and tools and documents,
/// which are none. White space is treated as Hugging Face transformers does (trim_blocks, lstrip_blocks).
/// Throws InputError for syntax or functions outside the supported subset (model/README.md), naming the construct and
/// the line; for raise_exception() in the template, with its text; and for invalid UTF-8.
std::string render_chat(const std::string& source, const std::string& origin, const std::vector<ChatMessage>& messages,
                        bool add_generation_prompt, const std::string& bos_text, const std::string& eos_text,
                        const std::tm* now = nullptr);

/// The same for variables of any kind: `variables` is a JSON object that holds all of them (messages with tool_calls,
/// tools, date_string, ...) in the order in which the template prints their members. tools and documents are none where
/// it does not name them. Throws InputError like render_chat, and for whole numbers outside 64 bits.
std::string render_template(const std::string& source, const std::string& origin,
                            const nlohmann::ordered_json& variables, const std::tm* now = nullptr);

}  // namespace restkv
