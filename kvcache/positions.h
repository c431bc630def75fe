// How many tokens may follow a prompt: positions run out at the model's last one, and with positions in the cache
// (CacheConfig::re_indexes) only rows count, not tokens.
#pragma once

#include <cstdint>

#include "kvcache/config.h"

namespace restkv {

/// Shape of the cache that decoding starts from.
struct CacheShape {
  int64_t layers = 0;
  int64_t heads = 0;  ///< cache heads of a layer, over all ranks
};

/// Most rows that a head of any layer may hold over all ranks: after a prompt of L tokens, and while decoding with an
/// eviction (decode.every > 0) however long that goes on.
int64_t most_rows_after_prompt(const CacheConfig& config, const CacheShape& shape, int64_t L);
int64_t most_rows_while_evicting(const CacheConfig& config, const CacheShape& shape, int64_t L);

/// Tokens that can be decoded after a prompt of L in a model of `max_positions`: those beyond the prompt, or with
/// positions in the cache those beyond its rows; as many as positions can be counted (2^31) where eviction bounds the
/// rows.
int64_t decode_room(const CacheConfig& config, const CacheShape& shape, int64_t L, int64_t max_positions);

}  // namespace restkv
