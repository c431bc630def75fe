#include <map>

#include "dist/base/error.h"
#include "kvcache/policies/policy.h"
#include "launch/config/config_hash.h"
#include "launch/prompts/prompts.h"
#include "model/tokenizer/utf8.h"

namespace restkv {
namespace {

/// A raw text gets the tokens that the model's own tokenizer puts around it; one that stands there already is not put
/// twice. A chat template writes them itself, or means that there are none.
std::vector<int32_t> tokenize(const std::string& text, bool rendered, const Tokenizer& tokenizer) {
  std::vector<int32_t> tokens = tokenizer.encode(text, /*parse_special=*/true);
  if (rendered) return tokens;
  const int32_t bos = tokenizer.bos(), eos = tokenizer.eos();
  if (tokenizer.add_bos() && bos >= 0 && (tokens.empty() || tokens.front() != bos)) tokens.insert(tokens.begin(), bos);
  if (tokenizer.add_eos() && eos >= 0 && (tokens.empty() || tokens.back() != eos)) tokens.push_back(eos);
  return tokens;
}

/// Removes tokens from the middle until at most `limit` are left: instructions stand at the ends of long prompts.
int64_t shorten(std::vector<int32_t>& tokens, int64_t limit) {
  auto length = static_cast<int64_t>(tokens.size());
  if (limit == 0 || length <= limit) return 0;
  int64_t head = limit - limit / 2;
  tokens.erase(tokens.begin() + head, tokens.begin() + head + (length - limit));
  return length - limit;
}

void check_request(const Request& request, const Checkpoint& checkpoint, const RunConfig& config) {
  auto L = static_cast<int64_t>(request.tokens.size());
  int64_t positions = checkpoint.config.max_positions;
  if (L == 0) fail_input("{}: the prompt is empty: it has no tokens; expected at least one", request.origin);
  if (positions > 0 && L > positions)
    fail_input(
        "{}: the prompt has {} tokens, but {} has {} positions; expected at most {} (prompt.max_tokens shortens)",
        request.origin, L, checkpoint.path, positions, positions);
  int64_t budget = config.cache.budget.resolve(L);
  if (find_policy(config.cache.policy).evicts && L > budget && budget < config.cache.least_budget())
    fail_input(
        "{}: cache.budget is {} tokens for this prompt of {}, but cache.window is {}; expected a budget of at least {} "
        "tokens",
        request.origin, budget, L, config.cache.window, config.cache.least_budget());
}

/// Of what the user gave, not of the tokens: a chat template may put today's date before them.
uint64_t content_hash(const PromptSource& prompt, const RunConfig& config) {
  uint64_t hash = fnv1a(fmt::format("{}\n{}\n", config.prompt.max_tokens, config.prompt.chat == ChatChoice::none));
  auto add = [&](const std::string& part) { hash = fnv1a(part, fnv1a(fmt::format("{}:", part.size()), hash)); };
  add(prompt.id);
  add(config.prompt.system);
  add(prompt.text);
  for (const ChatMessage& message : prompt.messages) {
    add(message.role);
    add(message.content);
  }
  return hash;
}

}  // namespace

std::string render_prompt(const PromptSource& prompt, const Checkpoint& checkpoint, const RunConfig& config,
                          bool* rendered) {
  bool has_template = !checkpoint.chat_template.empty();
  *rendered = has_template && config.prompt.chat == ChatChoice::automatic;
  if (!*rendered) {
    const char* why = has_template ? "prompt.chat is none" : "the model has no chat template";
    if (!prompt.messages.empty()) fail_input("{}: found \"messages\", but {}; expected \"prompt\"", prompt.origin, why);
    if (!config.prompt.system.empty())
      fail_input("{}: prompt.system is given, but {}; expected no prompt.system", config.file, why);
    return prompt.text;
  }
  std::vector<ChatMessage> messages = prompt.messages;
  if (messages.empty()) messages.push_back({"user", prompt.text});
  if (!config.prompt.system.empty()) {
    if (messages[0].role == "system")
      fail_input("{}: the messages begin with a system message, and prompt.system gives one too; expected one",
                 prompt.origin);
    messages.insert(messages.begin(), {"system", config.prompt.system});
  }
  return render_chat(checkpoint.chat_template, checkpoint.path, messages, /*add_generation_prompt=*/true,
                     checkpoint.tokenizer->bos_text(), checkpoint.tokenizer->eos_text());
}

std::vector<Request> prepare_requests(const std::vector<PromptSource>& prompts, const Checkpoint& checkpoint,
                                      const RunConfig& config) {
  if (checkpoint.tokenizer == nullptr)
    fail_input(
        "{}: the model has no tokenizer, so that it cannot read a text; expected tokenizer.json beside its weights",
        checkpoint.path);
  std::vector<Request> requests;
  std::map<uint64_t, int64_t> seen;
  for (const PromptSource& prompt : prompts) {
    Request request;
    request.index = static_cast<int64_t>(requests.size());
    request.id = prompt.id;
    request.origin = prompt.origin;
    bool rendered = false;
    std::string text = render_prompt(prompt, checkpoint, config, &rendered);
    request.tokens = tokenize(text, rendered, *checkpoint.tokenizer);
    request.removed_tokens = shorten(request.tokens, config.prompt.max_tokens);
    check_request(request, checkpoint, config);
    uint64_t content = content_hash(prompt, config);
    // The same prompt twice in one run is two requests.
    request.hash = fnv1a(fmt::format("{}", seen[content]++), content);
    requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace restkv
