// One request through the model: prefill, then token by token until something ends it.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launch/config/run_config.h"
#include "launch/prompts/prompts.h"
#include "model/checkpoint.h"
#include "model/transformer.h"

namespace restkv {

struct Generation {
  PrefillReport prefill;
  std::string text;             ///< without special tokens and without the stop text; rank 0 only
  std::vector<int32_t> tokens;  ///< sampled tokens, a stop token included
  std::string stop_reason;      ///< "stop_token", "stop_text", "max_new_tokens" or "positions"
  bool held = false;            ///< the context was prefilled for an earlier request
  double feed_seconds = 0.0;    ///< of the steps that fed the tokens behind the context
  double decode_seconds = 0.0;  ///< of all steps after the first token
  int64_t decode_bytes = 0;     ///< sent by this rank in that time
  int64_t cache_bytes = 0;      ///< rows in use on this rank after prefill
  int64_t batch = 1;            ///< requests that were decoded together
  int64_t steps() const { return static_cast<int64_t>(tokens.size()) - 1; }
};

/// What generate() tells while it works. Each may be empty.
struct GenerationHooks {
  std::function<void(int64_t layers_done, int64_t layers)> on_prefill;
  std::function<void()> on_prefill_done;                 ///< of each request
  std::function<void(const std::string& text)> on_text;  ///< rank 0 only, and only with one request
};

/// An evicted context that waits for the next requests of its group.
struct HeldContext {
  int64_t group = 0;
  Sequence sequence;
};

/// The contexts of the requests are prefilled one after another, one for all requests of a group, and decoded together:
/// first the tokens behind the context are fed. The results are those of one after another. `held` has the context of
/// the last request when it returns, if `more` of its group follow, and may have that of the first.
/// Collective over the grid. Rank 0 decides on tokens and when to stop, and tells the others: no rank can take another
/// path. The same request gives the same draws on every layout and in every batch.
std::vector<Generation> generate(Transformer& model, const ProcessGrid& grid, const Checkpoint& checkpoint,
                                 const RunConfig& config, std::span<const Request> requests,
                                 const GenerationHooks& hooks, std::optional<HeldContext>& held, bool more);

}  // namespace restkv
