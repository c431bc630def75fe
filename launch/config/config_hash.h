// A run's identity: which configuration made a result.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "launch/config/run_config.h"

namespace restkv {

/// FNV-1a, 64 bits.
uint64_t fnv1a(std::string_view bytes, uint64_t start = 0xcbf29ce484222325ull);

/// "00000000deadbeef"
std::string hex64(uint64_t value);

enum class HashScope {
  everything,  ///< all keys: what every rank of a run must agree on
  outcome,     ///< keys that affect results or speed, without prompt.*: a request's own hash stands for its prompt
};

/// The keys of `scope` with their effective values, as one JSON object with sorted names.
std::string canonical_json(const RunConfig& config, HashScope scope);

uint64_t config_hash(const RunConfig& config, HashScope scope);

}  // namespace restkv
