// The one list of configuration keys. Parsing, the suggestion for a misspelt key, the hash of a configuration and the
// table in configs/README.md (checked by a test) all come from it: a new key is a field of RunConfig, a row of
// key_table.cc and a row of that README.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launch/config/run_config.h"
#include "launch/config/value.h"

namespace restkv {

/// What changes when a key changes: the text and cache that come out, how long or with how much memory they come
/// out, or neither.
enum class Affects { results, speed, neither };

struct KeySpec {
  std::string name;  ///< "cache.window"
  std::string type;  ///< "integer", "one of `after`, `before`", ...
  std::string unit;  ///< "tokens"; empty: none
  Affects affects = Affects::results;
  std::string doc;
  bool literal = false;  ///< --set takes the value as it stands, not as YAML
  std::function<void(RunConfig&, const Value&)> set;
  std::function<std::string(const RunConfig&)> get;  ///< the value as JSON
};

/// All keys, grouped by section.
const std::vector<KeySpec>& run_keys();

/// The row of `name`; null when there is none.
const KeySpec* find_key(const std::string& name);

/// The known key that is most like `name`: fewest edits, and a right last part in the wrong section counts as near.
std::string nearest_key(const std::string& name);

/// The key's row of the table in configs/README.md.
std::string markdown_row(const KeySpec& key);

}  // namespace restkv
