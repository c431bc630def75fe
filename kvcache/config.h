// What is kept: the policy and its parameters, as a run configures them. Formulas: facts of the method (ICLR 2026,
// Eqs. 5 to 10) are restated where they are computed, in kvcache/scores/.
#pragma once

#include <cstdint>
#include <string>

#include "kvcache/ladder.h"

namespace restkv {

/// Tokens kept per KV head and layer, the window included: a count, or a fraction of the prompt.
struct Budget {
  int64_t tokens = 1024;
  double fraction = 0.0;  ///< used instead of `tokens` when > 0; rounded up to whole tokens

  /// The count for a prompt of L tokens.
  int64_t resolve(int64_t L) const;
};

enum class ScoreMode { after, before };
/// How the window rows become one: moving average from the oldest to the newest row, mean, moving average from the
/// newest to the oldest, the newest row alone.
enum class TemporalSmoothing { ema, mean, inverse_ema, last };
enum class Pooling { adaptive, average, max, none };
enum class Granularity { kv_head, query_head };
/// Of the budget: to the layers (pyramid; allocation.h), to the heads of a layer (ada; head_budgets.h), or to both.
enum class Allocation { uniform, pyramid, ada, ada_pyramid };
constexpr bool deals_to_layers(Allocation a) { return a == Allocation::pyramid || a == Allocation::ada_pyramid; }
constexpr bool deals_to_heads(Allocation a) { return a == Allocation::ada || a == Allocation::ada_pyramid; }

/// Which positions keys and queries are rotated with once the prompt is read (positions.h).
enum class Positions {
  automatic,  ///< as in the policy's source (PolicyEntry::cache_positions)
  original,   ///< those of the text
  cache,      ///< slots: a key's place among the kept rows of its head, the query's behind the last of them
};

/// When rows are evicted while tokens are generated.
struct DecodeSchedule {
  int64_t every = 0;    ///< tokens between two checks; 0: nothing is evicted while decoding
  int64_t trigger = 0;  ///< rows of a head above which a check evicts; 0: its budget
  int64_t target = 0;   ///< rows that are then left of it; 0: its budget
};

struct CacheConfig {
  std::string policy = "restkv";
  Budget budget;
  int64_t window = 32;  ///< W: last prompt tokens, whose queries score the past; always kept
  Granularity granularity = Granularity::kv_head;
  Allocation allocation = Allocation::uniform;
  double ada_floor = 0.2;  ///< ada: part of the budget that every head has for sure; to the thousandth

  // restkv
  ScoreMode mode = ScoreMode::after;
  bool reconstruction = true;  ///< else the attention itself is the score: mode after only, use_wo and tau unused
  bool use_wo = true;          ///< norms after the output projection (else in value space)
  bool normalize = false;      ///< mode before only: divide by the norm of the window output
  TemporalSmoothing temporal = TemporalSmoothing::ema;
  double alpha = 0.3;  ///< EMA weight of the newer row
  double tau = 1.0;    ///< exponent of the reconstruction norm
  Pooling pooling = Pooling::adaptive;
  int64_t kernel_size = 5;  ///< smallest (adaptive) or only (average, max) pooling width; odd
  double beta = 2000.0;     ///< drift per unit of shift

  // random
  uint64_t seed = 0;

  // streaming_llm, lacache
  int64_t sinks = 4;  ///< first positions, always kept

  // lacache
  int64_t ladder_span = 0;  ///< layers that keep one token; 0: half of the model's
  int64_t ladder_overlap = 0;
  LadderOffsets ladder_offsets = LadderOffsets::rotated;

  DecodeSchedule decode;
  Positions positions = Positions::automatic;

  /// Whether positions are those in the cache: then it holds keys as they are before their rotation.
  bool re_indexes() const;

  /// Throws InputError naming the key, the value found and what is allowed. Checks what does not depend on a prompt.
  void validate() const;
  /// The smallest budget that the policy can work with: the window, and what it needs of the past (one position for
  /// most). In words: "33 (the window of 32 and one more)".
  int64_t least_budget() const;
  std::string describe_least_budget() const;
};

}  // namespace restkv
