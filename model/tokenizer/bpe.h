// Byte-pair merging: joins neighbouring symbols by rank until no rule applies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace restkv {

/// The merge rules of a BPE vocabulary. Lower rank goes first; of equal pairs the leftmost.
class BpeMerges {
 public:
  /// A rule that is given twice has the rank given last.
  void add(int32_t left, int32_t right, int32_t rank, int32_t merged);
  void reserve(size_t rules) { rules_.reserve(rules); }
  size_t size() const { return rules_.size(); }

  /// Buffers of merge(), to be reused over many words.
  struct Scratch {
    struct Symbol {
      int32_t id, previous, next;
    };
    struct Candidate {
      int32_t rank, at, left, right, merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  /// Merges `symbols` in place, O(n log n) in their number (below 2^31).
  void merge(std::vector<int32_t>& symbols, Scratch& scratch) const;

 private:
  struct Rule {
    int32_t rank, merged;
  };
  struct Hash {
    size_t operator()(uint64_t key) const {
      key = (key ^ (key >> 31)) * 0x9E3779B97F4A7C15ull;
      return key ^ (key >> 32);
    }
  };
  void push_pair(int32_t at, Scratch& scratch) const;

  std::unordered_map<uint64_t, Rule, Hash> rules_;  // key: left id, right id
};

}  // namespace restkv
