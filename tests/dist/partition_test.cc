#include "dist/comm/partition.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "dist/base/error.h"

namespace restkv {
namespace {

TEST(Range, IntersectionOfAllSmallRanges) {
  for (int64_t a = 0; a < 5; ++a)
    for (int64_t b = a; b < 6; ++b)
      for (int64_t c = 0; c < 5; ++c)
        for (int64_t d = c; d < 6; ++d) {
          Range both = intersect({a, b}, {c, d});
          EXPECT_GE(both.size(), 0);
          for (int64_t i = 0; i < 6; ++i)
            EXPECT_EQ(both.contains(i), Range({a, b}).contains(i) && Range({c, d}).contains(i))
                << a << " " << b << " " << c << " " << d << " at " << i;
        }
}

TEST(SplitEven, CoversInOrderWithSizesThatDifferByOne) {
  for (int64_t n = 0; n < 60; ++n)
    for (int parts = 1; parts <= 17; ++parts) {
      int64_t next = 0, previous = n + 1;
      for (int i = 0; i < parts; ++i) {
        Range part = split_even(n, parts, i);
        EXPECT_EQ(part.begin, next);
        EXPECT_TRUE(part.size() == n / parts || part.size() == n / parts + 1);
        EXPECT_LE(part.size(), previous) << "the larger ones first";
        previous = part.size();
        next = part.end;
      }
      EXPECT_EQ(next, n);
    }
  EXPECT_THROW(split_even(4, 2, 2), RuntimeFailure);
  EXPECT_THROW(split_even(4, 0, 0), RuntimeFailure);
}

TEST(SplitEven, LargeNumbers) {
  int64_t n = (int64_t{1} << 52) + 5;
  EXPECT_EQ(split_even(n, 7, 6).end, n);
  EXPECT_EQ(split_even(n, 7, 3).begin, split_even(n, 7, 2).end);
}

TEST(SequencePartition, BlockSizeDependsOnTheLengthAlone) {
  EXPECT_EQ(block_size_for(1), 128);
  EXPECT_EQ(block_size_for(32767), 128);
  EXPECT_EQ(block_size_for(32768), 1024);
  EXPECT_EQ(block_size_for(1 << 20), 1024);
  for (int ranks = 1; ranks <= 8; ++ranks) EXPECT_EQ(SequencePartition(40000, ranks).block_size(), 1024);
}

// Every promise of the header for one partition, position by position.
void check_partition(const SequencePartition& p) {
  const int64_t L = p.length();
  const int chunks = 2 * p.ranks();
  SCOPED_TRACE(::testing::Message() << "L " << L << " ranks " << p.ranks() << " block " << p.block_size());

  int64_t next = 0, smallest = p.blocks(), largest = 0;
  for (int c = 0; c < chunks; ++c) {
    Range chunk = p.chunk(c);
    ASSERT_EQ(chunk.begin, next);
    ASSERT_TRUE(chunk.begin % p.block_size() == 0 || chunk.begin == L) << "edge off the grid";
    int64_t blocks = (chunk.size() + p.block_size() - 1) / p.block_size();
    smallest = std::min(smallest, blocks);
    largest = std::max(largest, blocks);
    next = chunk.end;
  }
  ASSERT_EQ(next, L);
  ASSERT_LE(largest - smallest, 1);

  std::vector<int> seen(static_cast<size_t>(L), 0);
  int64_t most = 0, least = L;
  for (int r = 0; r < p.ranks(); ++r) {
    auto [lower, upper] = p.chunks_of(r);
    ASSERT_EQ(lower, p.chunk(r));
    ASSERT_EQ(upper, p.chunk(chunks - 1 - r));
    ASSERT_EQ(p.local_size(r), lower.size() + upper.size());
    most = std::max(most, p.local_size(r));
    least = std::min(least, p.local_size(r));
    int64_t i = 0;
    for (Range chunk : {lower, upper})
      for (int64_t position = chunk.begin; position < chunk.end; ++position, ++i) {
        ++seen[position];
        ASSERT_EQ(p.owner(position), r);
        ASSERT_EQ(p.local_index(r, position), i);
        ASSERT_EQ(p.global_position(r, i), position);
      }
    ASSERT_THROW(p.global_position(r, i), RuntimeFailure);

    std::vector<int64_t> of_rank = p.blocks_of(r), expected;
    for (int64_t b = 0; b < p.blocks(); ++b)
      if (p.owner(p.block(b).begin) == r) expected.push_back(b);
    ASSERT_EQ(of_rank, expected);
  }
  for (int64_t position = 0; position < L; ++position) ASSERT_EQ(seen[position], 1) << "position " << position;
  ASSERT_LE(most - least, 2 * p.block_size()) << "tokens per rank differ by more than one block and the ragged end";

  next = 0;
  for (int64_t b = 0; b < p.blocks(); ++b) {
    ASSERT_EQ(p.block(b).begin, next);
    ASSERT_EQ(p.owner(p.block(b).begin), p.owner(p.block(b).end - 1)) << "a block lies on one rank";
    next = p.block(b).end;
  }
  ASSERT_EQ(next, L);
}

TEST(SequencePartition, AllSmallLengthsAndBlocks) {
  for (int ranks = 1; ranks <= 8; ++ranks)
    for (int64_t block : {1, 2, 3, 7})
      for (int64_t L = 0; L <= 70; ++L) check_partition(SequencePartition(L, ranks, block));
}

TEST(SequencePartition, LengthsAroundTheRealGrid) {
  for (int ranks = 1; ranks <= 8; ++ranks) {
    for (int64_t L : {1, 127, 128, 129, 255, 256, 257, 1000, 1279, 2048, 2049, 6001, 32767, 32768, 32769, 33793})
      check_partition(SequencePartition(L, ranks));
  }
}

TEST(SequencePartition, RandomLengths) {
  std::mt19937 random(7);
  for (int i = 0; i < 60; ++i) check_partition(SequencePartition(1 + random() % 20000, 1 + random() % 8));
}

TEST(SequencePartition, CausalWorkIsBalanced) {
  // Work of a query at position i: i + 1 keys. With many blocks per chunk every rank is near the mean.
  for (int ranks = 1; ranks <= 8; ++ranks)
    for (int64_t L : {131072, 100000, 1000003}) {
      SequencePartition p(L, ranks);
      double total = 0.5 * L * (L + 1.0), worst = 0.0;
      for (int r = 0; r < ranks; ++r) {
        double work = 0.0;
        for (Range chunk : p.chunks_of(r)) work += 0.5 * (chunk.begin + chunk.end + 1.0) * chunk.size();
        worst = std::max(worst, work);
      }
      // One block more than the others, at the far end, is the largest imbalance that the grid allows.
      double allowed = total / ranks + 1.0 * p.block_size() * L;
      EXPECT_LE(worst, allowed) << L << " over " << ranks;
      EXPECT_LE(worst, 1.13 * total / ranks) << L << " over " << ranks;
    }
}

TEST(SequencePartition, ChunksOfOtherRanksAreRefused) {
  SequencePartition p(1000, 2);
  EXPECT_THROW(p.local_index(0, p.chunk(1).begin), RuntimeFailure);
  EXPECT_THROW(p.owner(1000), RuntimeFailure);
  EXPECT_THROW(p.owner(-1), RuntimeFailure);
  EXPECT_THROW(p.chunks_of(2), RuntimeFailure);
  EXPECT_THROW(p.block(8), RuntimeFailure);
  EXPECT_THROW(SequencePartition(10, 0), RuntimeFailure);
}

// Query heads are cut once; the KV heads of a part are exactly those of its query heads.
void check_heads(HeadRange outer, int64_t group, int parts) {
  int64_t next = outer.q.begin;
  for (int part = 0; part < parts; ++part) {
    HeadRange heads = split_heads_within(outer, group, parts, part);
    ASSERT_EQ(heads.q.begin, next);
    next = heads.q.end;
    for (int64_t h = outer.q.begin; h < outer.q.end; ++h)
      if (heads.q.contains(h)) {
        ASSERT_TRUE(heads.kv.contains(h / group));
      }
    for (int64_t g = heads.kv.begin; g < heads.kv.end; ++g)
      ASSERT_FALSE(intersect(heads.q, {g * group, (g + 1) * group}).empty()) << "KV head that no query head needs";
    if (parts <= outer.kv.size() && outer.q.size() == outer.kv.size() * group) {
      ASSERT_GE(heads.kv.size(), outer.kv.size() / parts);
      ASSERT_LE(heads.kv.size(), (outer.kv.size() + parts - 1) / parts);
      ASSERT_EQ(heads.q, Range({heads.kv.begin * group, heads.kv.end * group})) << "whole groups";
    }
  }
  ASSERT_EQ(next, outer.q.end);
}

TEST(SplitHeads, AllSmallShapes) {
  for (int64_t Hkv = 1; Hkv <= 9; ++Hkv)
    for (int64_t group = 1; group <= 8; ++group)
      for (int parts = 1; parts <= 8; ++parts) {
        check_heads({{0, Hkv * group}, {0, Hkv}}, group, parts);
        for (int part = 0; part < parts; ++part) {
          HeadRange outer = split_heads(Hkv * group, Hkv, parts, part);
          for (int inner = 1; inner <= 4; ++inner) check_heads(outer, group, inner);
        }
      }
}

TEST(SplitHeads, KnownShapes) {
  HeadRange llama = split_heads(32, 8, 4, 1);
  EXPECT_EQ(llama.q, Range({8, 16}));
  EXPECT_EQ(llama.kv, Range({2, 4}));
  HeadRange smol = split_heads(9, 3, 2, 1);  // 3 KV heads on 2 parts: 2 and 1, none on both
  EXPECT_EQ(smol.q, Range({6, 9}));
  EXPECT_EQ(smol.kv, Range({2, 3}));
  EXPECT_EQ(split_heads(8, 2, 4, 1).kv, Range({0, 1}));  // more parts than KV heads: each on two of them
  EXPECT_EQ(split_heads(8, 2, 4, 1).q, Range({2, 4}));
  EXPECT_TRUE(split_heads(2, 1, 4, 3).kv.empty());
  EXPECT_THROW(split_heads(9, 2, 1, 0), RuntimeFailure);
}

}  // namespace
}  // namespace restkv
