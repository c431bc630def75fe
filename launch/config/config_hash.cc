#include "launch/config/config_hash.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "launch/config/key_table.h"

namespace restkv {

uint64_t fnv1a(std::string_view bytes, uint64_t start) {
  uint64_t hash = start;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3ull;
  return hash;
}

std::string hex64(uint64_t value) { return fmt::format("{:016x}", value); }

std::string canonical_json(const RunConfig& config, HashScope scope) {
  nlohmann::json object = nlohmann::json::object();  // a std::map inside: names come out sorted
  for (const KeySpec& key : run_keys()) {
    bool outcome = key.affects != Affects::neither && !key.name.starts_with("prompt.");
    if (scope == HashScope::everything || outcome) object[key.name] = nlohmann::json::parse(key.get(config));
  }
  return object.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

uint64_t config_hash(const RunConfig& config, HashScope scope) { return fnv1a(canonical_json(config, scope)); }

}  // namespace restkv
