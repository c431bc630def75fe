// A model's own chat template (the subset of Jinja that model files use), rendered to the prompt text.
#pragma once

#include <string>
#include <vector>

namespace restkv {

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant"
  std::string content;
};

/// `source`: the template text. `origin`: the file it came from, for messages.
/// Throws InputError for syntax or functions outside the supported subset, naming the construct, and for
/// raise_exception() in the template, with its text.
std::string render_chat(const std::string& source, const std::string& origin, const std::vector<ChatMessage>& messages,
                        bool add_generation_prompt, const std::string& bos_text, const std::string& eos_text);

}  // namespace restkv
