// The prompts of a run: read from the configuration, a file or a JSONL file, rendered and tokenized.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/config/run_config.h"
#include "model/chat_template.h"
#include "model/checkpoint.h"

namespace restkv {

/// One prompt as the user gave it: a text, or messages.
struct PromptSource {
  std::string id;      ///< as given in JSONL; empty otherwise
  std::string origin;  ///< "prompts.jsonl:3", for messages
  std::string text;
  std::vector<ChatMessage> messages;  ///< not empty: instead of text
  /// Each of them after the text, in the same message, is a request.
  std::vector<std::string> questions = {};
};

/// All prompts of a run, in order; at least one. Throws InputError (file, line, what was found and what is expected)
/// for a file that cannot be read, a line that is no such object, invalid UTF-8 and an empty prompt.
std::vector<PromptSource> read_prompts(const RunConfig& config);

/// A prompt, or a question about one, ready for the model.
struct Request {
  int64_t index = 0;  ///< place in the run, from 0
  std::string id;     ///< of question n: the prompt's, then "#n"
  std::string origin;
  std::vector<int32_t> tokens;  ///< [L]
  /// The first so many are read at once and evicted, the others fed one by one. All of them, unless tokens are held
  /// back or there are questions.
  int64_t context = 0;
  int64_t group = 0;           ///< requests of one group, which follow each other, have the same context
  std::string question;        ///< empty: the prompt as it is
  int64_t removed_tokens = 0;  ///< cut from the middle by prompt.max_tokens
  uint64_t hash = 0;           ///< of the prompt as given, and how often the same came before in this run
};

/// The text that is tokenized: through the chat template, or as it stands. `rendered` tells which.
std::string render_prompt(const PromptSource& prompt, const Checkpoint& checkpoint, const RunConfig& config,
                          bool* rendered);

/// What the requests of a run need at most.
struct RequestSizes {
  int64_t context = 0, fed = 0;  ///< tokens
  bool shares = false;           ///< whether a context has several requests
};
RequestSizes sizes_of(const std::vector<Request>& requests);

/// Renders, tokenizes and checks every prompt. Of a prompt with questions the conversation with each of them is
/// tokenized as a whole; the context is what all of these begin with, and the conversation without any question, too.
/// Throws InputError, naming the prompt's origin, for one that is empty, does not fit the model's positions, or leaves
/// the window no room in the budget.
std::vector<Request> prepare_requests(const std::vector<PromptSource>& prompts, const Checkpoint& checkpoint,
                                      const RunConfig& config);

}  // namespace restkv
