#include <algorithm>
#include <map>

#include "dist/base/error.h"
#include "kvcache/policies/policy.h"
#include "launch/config/config_hash.h"
#include "launch/prompts/prompts.h"
#include "model/tokenizer/utf8.h"
#include "model/transformer.h"

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
  const int64_t L = request.context, fed = static_cast<int64_t>(request.tokens.size()) - L;
  const int64_t positions = checkpoint.config.max_positions;
  if (request.tokens.empty())
    fail_input("{}: the prompt is empty: it has no tokens; expected at least one", request.origin);
  if (L < 1)
    fail_input(
        "{}: prompt.hold_back is {}, which leaves none of {} tokens to be read before the eviction; expected "
        "less",
        request.origin, config.prompt.hold_back, L + config.prompt.hold_back);
  if (L > positions)
    fail_input(
        "{}: the prompt has {} tokens, but {} has {} positions; expected at most {} (prompt.max_tokens shortens)",
        request.origin, L, checkpoint.path, positions, positions);
  if (const int64_t room = decode_room(checkpoint.config, config.cache, L); fed > room)
    fail_input(
        "{}: {} tokens are fed after the first {}, but {} positions of {} leave room for {} (prompt.max_tokens "
        "shortens)",
        request.origin, fed, L, positions, checkpoint.path, room);
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

namespace {

std::vector<int32_t> tokens_of(const PromptSource& prompt, const Checkpoint& checkpoint, const RunConfig& config) {
  bool rendered = false;
  const std::string text = render_prompt(prompt, checkpoint, config, &rendered);
  return tokenize(text, rendered, *checkpoint.tokenizer);
}

Request whole_request(const PromptSource& prompt, const Checkpoint& checkpoint, const RunConfig& config) {
  Request request;
  request.id = prompt.id;
  request.origin = prompt.origin;
  request.tokens = tokens_of(prompt, checkpoint, config);
  request.removed_tokens = shorten(request.tokens, config.prompt.max_tokens);
  request.context = static_cast<int64_t>(request.tokens.size());
  return request;
}

/// The text with a question, or with none, in one message.
PromptSource with_question(PromptSource prompt, const std::string& question) {
  prompt.text += "\n\n" + question;
  return prompt;
}

int64_t common_prefix(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

/// One per question, with the same context.
std::vector<Request> question_requests(const PromptSource& prompt, const Checkpoint& checkpoint,
                                       const RunConfig& config) {
  const std::vector<int32_t> none = tokens_of(with_question(prompt, ""), checkpoint, config);
  auto context = static_cast<int64_t>(none.size());
  int64_t longest = 0;
  std::vector<Request> requests;
  for (const std::string& question : prompt.questions) {
    Request request;
    const size_t number = requests.size() + 1;
    request.id = fmt::format("{}#{}", prompt.id, number);
    request.origin = fmt::format("{}, question {}", prompt.origin, number);
    request.question = question;
    request.tokens = tokens_of(with_question(prompt, question), checkpoint, config);
    context = std::min(context, common_prefix(none, request.tokens));
    longest = std::max(longest, static_cast<int64_t>(request.tokens.size()));
    requests.push_back(std::move(request));
  }
  // The context is shortened, so far that the longest question fits.
  const int64_t fed = longest - context, limit = config.prompt.max_tokens;
  if (limit > 0 && fed >= limit)
    fail_input("{}: the longest question has {} tokens, but prompt.max_tokens is {}; expected more than {}",
               prompt.origin, fed, limit, fed);
  for (Request& request : requests) {
    std::vector<int32_t> shared(request.tokens.begin(), request.tokens.begin() + context);
    request.removed_tokens = shorten(shared, limit > 0 ? limit - fed : 0);
    shared.insert(shared.end(), request.tokens.begin() + context, request.tokens.end());
    request.tokens = std::move(shared);
    request.context = context - request.removed_tokens;
  }
  return requests;
}

}  // namespace

RequestSizes sizes_of(const std::vector<Request>& requests) {
  RequestSizes sizes;
  for (size_t i = 0; i < requests.size(); ++i) {
    sizes.context = std::max(sizes.context, requests[i].context);
    sizes.fed = std::max(sizes.fed, static_cast<int64_t>(requests[i].tokens.size()) - requests[i].context);
    sizes.shares = sizes.shares || (i > 0 && requests[i].group == requests[i - 1].group);
  }
  return sizes;
}

std::vector<Request> prepare_requests(const std::vector<PromptSource>& prompts, const Checkpoint& checkpoint,
                                      const RunConfig& config) {
  if (checkpoint.tokenizer == nullptr)
    fail_input(
        "{}: the model has no tokenizer, so that it cannot read a text; expected tokenizer.json beside its weights",
        checkpoint.path);
  std::vector<Request> requests;
  std::map<uint64_t, int64_t> seen;
  for (size_t group = 0; group < prompts.size(); ++group) {
    const PromptSource& prompt = prompts[group];
    std::vector<Request> some = prompt.questions.empty() ? std::vector{whole_request(prompt, checkpoint, config)}
                                                         : question_requests(prompt, checkpoint, config);
    for (Request& request : some) {
      request.index = static_cast<int64_t>(requests.size());
      request.group = static_cast<int64_t>(group);
      request.context -= config.prompt.hold_back;
      check_request(request, checkpoint, config);
      uint64_t content = content_hash(prompt, config);
      if (!prompt.questions.empty() || config.prompt.hold_back > 0)
        content = fnv1a(fmt::format("{}\n{}", request.context, request.question), content);
      // The same prompt twice in one run is two requests.
      request.hash = fnv1a(fmt::format("{}", seen[content]++), content);
      requests.push_back(std::move(request));
    }
  }
  return requests;
}

}  // namespace restkv
