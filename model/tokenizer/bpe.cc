#include "model/tokenizer/bpe.h"

#include <algorithm>

namespace restkv {
namespace {

constexpr int32_t kNone = -1;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Order of a heap whose front is the lowest rank, then the leftmost place.
constexpr auto kLater = [](const BpeMerges::Scratch::Candidate& a, const BpeMerges::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
};

}  // namespace

void BpeMerges::add(int32_t left, int32_t right, int32_t rank, int32_t merged) {
  rules_.insert_or_assign(pair_key(left, right), Rule{rank, merged});
}

void BpeMerges::push_pair(int32_t at, Scratch& scratch) const {
  const auto& symbol = scratch.symbols[at];
  if (symbol.next == kNone) return;
  const int32_t right = scratch.symbols[symbol.next].id;
  const auto rule = rules_.find(pair_key(symbol.id, right));
  if (rule == rules_.end()) return;
  scratch.heap.push_back({rule->second.rank, at, symbol.id, right, rule->second.merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), kLater);
}

void BpeMerges::merge(std::vector<int32_t>& ids, Scratch& scratch) const {
  const auto count = static_cast<int32_t>(ids.size());
  if (count < 2) return;
  auto& symbols = scratch.symbols;
  symbols.resize(ids.size());
  scratch.heap.clear();
  for (int32_t i = 0; i < count; ++i) symbols[i] = {ids[i], i - 1, i + 1 < count ? i + 1 : kNone};
  for (int32_t i = 0; i < count; ++i) push_pair(i, scratch);

  while (!scratch.heap.empty()) {
    std::pop_heap(scratch.heap.begin(), scratch.heap.end(), kLater);
    const Scratch::Candidate top = scratch.heap.back();
    scratch.heap.pop_back();
    auto& symbol = symbols[top.at];
    // A candidate is stale when one of its two symbols has been merged since. Merged-away symbols have id kNone.
    if (symbol.id != top.left || symbol.next == kNone || symbols[symbol.next].id != top.right) continue;
    auto& gone = symbols[symbol.next];
    symbol.id = top.merged;
    symbol.next = gone.next;
    gone.id = kNone;
    if (symbol.next != kNone) symbols[symbol.next].previous = top.at;
    if (symbol.previous != kNone) push_pair(symbol.previous, scratch);
    push_pair(top.at, scratch);
  }

  ids.clear();
  for (int32_t at = 0; at != kNone; at = symbols[at].next) ids.push_back(symbols[at].id);
}

}  // namespace restkv
