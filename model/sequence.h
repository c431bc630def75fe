// One request between its prefill and its last token: the cache and what is known of it.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "dist/base/phase_clock.h"
#include "kvcache/decode/decode_evictor.h"
#include "kvcache/kv_cache.h"

namespace restkv {

/// What prefill did. Times in seconds on this rank (they include waiting for other ranks); the rest is the same on
/// every rank.
struct PrefillReport {
  double seconds = 0.0;
  /// embed, norm, gemm (linear layers), rope, activation, exchange (K/V gather, tensor-parallel sums), attention,
  /// scoring, select, evict_exchange (the exchanges of both), compact (with re-sharding), logits.
  std::vector<PhaseTime> phases;
  double seconds_of(std::string_view phase) const;  ///< 0 for a phase that did not run
  double evict_seconds = 0.0;                       ///< scoring, select, evict_exchange and compact
  int64_t exchange_bytes = 0;                       ///< sent by this rank for K/V gather and tensor-parallel sums
  int64_t evict_bytes = 0;                          ///< sent by this rank for the decision
  int64_t reshard_bytes = 0;                        ///< sent by this rank to bring kept rows to their decoding ranks
  std::vector<std::array<int64_t, 3>> layer_bytes;  ///< [layers] of these three what each layer sent

  bool evicted = false;
  std::string reason;                             ///< why nothing was evicted, in words; empty when it was
  int64_t budget = 0;                             ///< tokens per cache head and layer in force
  int64_t cache_bytes = 0;                        ///< K and V rows held over all ranks
  int64_t full_cache_bytes = 0;                   ///< the same without eviction
  std::vector<std::vector<int64_t>> kept_counts;  ///< [layers][cache heads of the model] over all ranks
  uint64_t kept_hash = 0;  ///< over all (layer, cache head, kept position); equal sets give equal hashes
};

inline double PrefillReport::seconds_of(std::string_view phase) const {
  for (const PhaseTime& p : phases)
    if (p.name == phase) return p.seconds;
  return 0.0;
}

struct Sequence {
  KvCache cache;
  int64_t prompt_tokens = 0;
  int64_t length = 0;  ///< tokens processed: the position of the next one
  PrefillReport report;
  std::vector<float> logits;             ///< [vocab] after the last processed token, on every rank
  std::vector<PhaseTime> decode_phases;  ///< CPU ranks: of the last decode step
  DecodeEvictState eviction = {};        ///< what eviction while decoding remembers
  /// No token is taken once `length` has reached it: the model's positions are used up (decode_room()).
  int64_t end = std::numeric_limits<int64_t>::max();

  /// The same state with a cache of its own.
  Sequence clone() const {
    return {cache.clone(), prompt_tokens, length, report, logits, decode_phases, eviction.clone(cache.context()), end};
  }
};

}  // namespace restkv
