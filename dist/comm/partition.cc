#include "dist/comm/partition.h"

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {
namespace {

int owner_of_chunk(int chunk, int ranks) { return chunk < ranks ? chunk : 2 * ranks - 1 - chunk; }

// The part of split_even(n, parts, .) that item i lies in.
int part_of(int64_t n, int parts, int64_t i) {
  int64_t small = n / parts, larger = n % parts;
  int64_t edge = larger * (small + 1);
  if (i < edge) return static_cast<int>(i / (small + 1));
  return static_cast<int>(larger + (i - edge) / small);
}

Range kv_heads_of(Range q, int64_t group) {
  if (q.empty()) return {q.begin / group, q.begin / group};
  return {q.begin / group, (q.end - 1) / group + 1};
}

}  // namespace

Range intersect(Range a, Range b) {
  int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

Range split_even(int64_t n, int parts, int i) {
  RESTKV_CHECK(n >= 0 && parts >= 1 && 0 <= i && i < parts, "part {} of {} parts of {} items", i, parts, n);
  int64_t small = n / parts, larger = n % parts;
  int64_t begin = i * small + std::min<int64_t>(i, larger);
  return {begin, begin + small + (i < larger ? 1 : 0)};
}

int64_t block_size_for(int64_t L) { return L >= 32768 ? 1024 : 128; }

SequencePartition::SequencePartition(int64_t L, int ranks) : SequencePartition(L, ranks, block_size_for(L)) {}

SequencePartition::SequencePartition(int64_t L, int ranks, int64_t block_size)
    : L_(L), ranks_(ranks), block_(block_size) {
  RESTKV_CHECK(L >= 0 && ranks >= 1 && block_size >= 1, "{} positions over {} ranks in blocks of {}", L, ranks,
               block_size);
}

Range SequencePartition::block(int64_t b) const {
  RESTKV_CHECK(0 <= b && b < blocks(), "block {} of {}", b, blocks());
  return {b * block_, std::min(L_, (b + 1) * block_)};
}

Range SequencePartition::chunk(int c) const {
  Range in_blocks = split_even(blocks(), 2 * ranks_, c);
  return {std::min(L_, in_blocks.begin * block_), std::min(L_, in_blocks.end * block_)};
}

std::array<Range, 2> SequencePartition::chunks_of(int rank) const {
  RESTKV_CHECK(0 <= rank && rank < ranks_, "rank {} of {}", rank, ranks_);
  return {chunk(rank), chunk(2 * ranks_ - 1 - rank)};
}

int64_t SequencePartition::local_size(int rank) const {
  auto [lower, upper] = chunks_of(rank);
  return lower.size() + upper.size();
}

int SequencePartition::owner(int64_t position) const {
  RESTKV_CHECK(0 <= position && position < L_, "position {} of {}", position, L_);
  return owner_of_chunk(part_of(blocks(), 2 * ranks_, position / block_), ranks_);
}

int64_t SequencePartition::local_index(int rank, int64_t position) const {
  auto [lower, upper] = chunks_of(rank);
  if (lower.contains(position)) return position - lower.begin;
  RESTKV_CHECK(upper.contains(position), "position {} is not on rank {}", position, rank);
  return lower.size() + position - upper.begin;
}

int64_t SequencePartition::global_position(int rank, int64_t i) const {
  auto [lower, upper] = chunks_of(rank);
  RESTKV_CHECK(0 <= i && i < lower.size() + upper.size(), "local index {} of {} on rank {}", i,
               lower.size() + upper.size(), rank);
  return i < lower.size() ? lower.begin + i : upper.begin + (i - lower.size());
}

std::vector<int64_t> SequencePartition::blocks_of(int rank) const {
  RESTKV_CHECK(0 <= rank && rank < ranks_, "rank {} of {}", rank, ranks_);
  std::vector<int64_t> owned;
  for (int c : {rank, 2 * ranks_ - 1 - rank}) {
    Range in_blocks = split_even(blocks(), 2 * ranks_, c);
    for (int64_t b = in_blocks.begin; b < in_blocks.end; ++b) owned.push_back(b);
  }
  return owned;
}

HeadRange split_heads(int64_t Hq, int64_t Hkv, int parts, int part) {
  RESTKV_CHECK(Hkv >= 1 && Hq >= Hkv && Hq % Hkv == 0, "{} query heads over {} KV heads", Hq, Hkv);
  return split_heads_within({{0, Hq}, {0, Hkv}}, Hq / Hkv, parts, part);
}

HeadRange split_heads_within(HeadRange outer, int64_t group, int parts, int part) {
  RESTKV_CHECK(group >= 1 && kv_heads_of(outer.q, group).size() == outer.kv.size(),
               "query heads [{}, {}) with KV heads [{}, {}) and groups of {}", outer.q.begin, outer.q.end,
               outer.kv.begin, outer.kv.end, group);
  bool whole_groups = outer.q.size() == outer.kv.size() * group;
  if (whole_groups && parts <= outer.kv.size()) {
    Range cut = split_even(outer.kv.size(), parts, part);
    Range kv{outer.kv.begin + cut.begin, outer.kv.begin + cut.end};
    return {{kv.begin * group, kv.end * group}, kv};
  }
  Range cut = split_even(outer.q.size(), parts, part);
  Range q{outer.q.begin + cut.begin, outer.q.begin + cut.end};
  return {q, kv_heads_of(q, group)};
}

}  // namespace restkv
