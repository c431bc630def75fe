// Who owns what: pure arithmetic, the same on every rank, no communication.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace restkv {

/// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
  bool contains(int64_t i) const { return begin <= i && i < end; }
  bool operator==(const Range&) const = default;
};

/// The overlap of two ranges; empty ranges are [x, x).
Range intersect(Range a, Range b);

/// Part i of n items cut into `parts` runs whose sizes differ by one at most (the larger ones first).
Range split_even(int64_t n, int parts, int i);

/// Edge length of the block grid for L positions: 128, and 1024 from 32768 positions up. It depends on L alone,
/// never on the layout, so partial results per block are the same numbers on every layout.
int64_t block_size_for(int64_t L);

/// L positions over `ranks` sequence ranks: the blocks are cut into 2 * ranks chunks, rank r owns chunks r and
/// 2 * ranks - 1 - r (zigzag: under a causal mask every rank gets about the same work). Chunk edges lie on the block
/// grid; a chunk may be empty when there are fewer blocks than chunks. The local order of a rank is its lower chunk,
/// then its upper chunk.
class SequencePartition {
 public:
  SequencePartition(int64_t L, int ranks);
  SequencePartition(int64_t L, int ranks, int64_t block_size);

  int64_t length() const { return L_; }
  int ranks() const { return ranks_; }
  int64_t block_size() const { return block_; }
  int64_t blocks() const { return (L_ + block_ - 1) / block_; }
  Range block(int64_t b) const;

  /// Global positions of chunk c in [0, 2 * ranks).
  Range chunk(int c) const;
  /// The two chunks of a rank (lower, upper); either may be empty.
  std::array<Range, 2> chunks_of(int rank) const;
  int64_t local_size(int rank) const;
  int owner(int64_t position) const;
  /// Index of an owned position in the rank's local order.
  int64_t local_index(int rank, int64_t position) const;
  /// Global position of local index i.
  int64_t global_position(int rank, int64_t i) const;
  /// Blocks owned by a rank, ascending.
  std::vector<int64_t> blocks_of(int rank) const;

 private:
  int64_t L_;
  int ranks_;
  int64_t block_;
};

/// The query heads and KV heads of one of `parts` parts. KV head g serves query heads [g * group, (g + 1) * group).
/// With no more parts than KV heads every part owns whole groups (their numbers differ by one at most), so no KV head
/// is held twice. With more parts the query heads are cut evenly and every part holds the KV heads that its query
/// heads need: a KV head then lies on several parts.
struct HeadRange {
  Range q;
  Range kv;
};
HeadRange split_heads(int64_t Hq, int64_t Hkv, int parts, int part);

/// The same, inside a part that `outer` already is: used to cut a tensor rank's heads over its sequence group.
HeadRange split_heads_within(HeadRange outer, int64_t group, int parts, int part);

}  // namespace restkv
