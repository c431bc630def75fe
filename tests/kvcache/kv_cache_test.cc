#include "kvcache/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

#include "dist/base/error.h"

namespace restkv::testing {
namespace {

struct Source {
  int64_t n, kv_heads, d;
  std::vector<uint16_t> k, v;
  std::vector<int64_t> positions;

  Source(int64_t n_, int64_t kv_heads_, int64_t d_) : n(n_), kv_heads(kv_heads_), d(d_) {
    std::mt19937 random(3);
    for (int64_t i = 0; i < n * kv_heads * d; ++i) {
      k.push_back(static_cast<uint16_t>(random()));
      v.push_back(static_cast<uint16_t>(random()));
    }
    for (int64_t i = 0; i < n; ++i) positions.push_back(1000 + 3 * i);
  }
  const uint16_t* row(const std::vector<uint16_t>& x, int64_t i, int64_t head) const {
    return x.data() + (i * kv_heads + head) * d;
  }
};

bool same_bits(const void* a, const void* b, int64_t bytes) {
  return std::memcmp(a, b, static_cast<size_t>(bytes)) == 0;
}

TEST(KvCache, KeptRowsAreTheOriginalBits) {
  Context ctx({Device::cpu, 2});
  Source source(50, 3, 8);
  const std::vector<int64_t> source_head = {0, 0, 2, 1};  // query-head granularity: heads share a source
  const std::vector<std::vector<int32_t>> rows = {{0, 7, 49}, {}, {1, 2, 3, 4, 5}, {48}};
  KvCache cache(ctx, 2, 4, 8, DType::bf16);
  cache.store(1, source.k.data(), source.v.data(), 3, source_head.data(), source.positions.data(), rows, 2);
  KvView view = cache.view(1);
  EXPECT_EQ(view.heads, 4);
  EXPECT_EQ(view.dtype, DType::bf16);
  for (int64_t h = 0; h < 4; ++h) {
    ASSERT_EQ(cache.length(1, h), static_cast<int64_t>(rows[h].size()));
    EXPECT_EQ(view.lengths[h], cache.length(1, h));
    auto positions = cache.positions(1, h);
    for (size_t i = 0; i < rows[h].size(); ++i) {
      const int64_t at = static_cast<int64_t>(i) * view.row_stride;
      EXPECT_EQ(positions[i], source.positions[rows[h][i]]);
      EXPECT_TRUE(same_bits(view.k_head<uint16_t>(h) + at, source.row(source.k, rows[h][i], source_head[h]), 16));
      EXPECT_TRUE(same_bits(view.v_head<uint16_t>(h) + at, source.row(source.v, rows[h][i], source_head[h]), 16));
    }
  }
  EXPECT_EQ(cache.bytes(), 2 * 9 * 8 * 2);
  EXPECT_EQ(cache.capacity_bytes(), 2 * (9 + 4 * 2) * 8 * 2);
  EXPECT_EQ(cache.length(0, 3), 0);
}

TEST(KvCache, AppendsWithinTheReserveAndBeyond) {
  Context ctx({Device::cpu, 1});
  Source source(200, 2, 4);
  const std::vector<int64_t> source_head = {1, 0};
  KvCache cache(ctx, 1, 2, 4, DType::bf16);
  cache.store(0, source.k.data(), source.v.data(), 2, source_head.data(), source.positions.data(), {{0, 1, 2}, {5}}, 2);
  const int64_t reserved = cache.capacity_bytes();
  const void* storage = cache.view(0).k;
  int reallocated = 0;
  for (int64_t i = 10; i < 150; ++i) {
    cache.append(0, source.row(source.k, i, 0), source.row(source.v, i, 0), source_head.data(), i);
    if (i < 12) {
      EXPECT_EQ(cache.capacity_bytes(), reserved);
    }
    reallocated += cache.view(0).k != storage;
    storage = cache.view(0).k;
  }
  EXPECT_LE(reallocated, 6);  // amortised
  KvView view = cache.view(0);
  const std::vector<std::vector<int64_t>> first = {{0, 1, 2}, {5}};
  for (int64_t h = 0; h < 2; ++h) {
    auto rows = first[h];
    for (int64_t i = 10; i < 150; ++i) rows.push_back(i);
    auto positions = cache.positions(0, h);
    ASSERT_EQ(cache.length(0, h), static_cast<int64_t>(rows.size()));
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(positions[i], i < first[h].size() ? source.positions[rows[i]] : rows[i]);
      EXPECT_TRUE(same_bits(view.k_head<uint16_t>(h) + static_cast<int64_t>(i) * view.row_stride,
                            source.row(source.k, rows[i], source_head[h]), 8));
      EXPECT_TRUE(same_bits(view.v_head<uint16_t>(h) + static_cast<int64_t>(i) * view.row_stride,
                            source.row(source.v, rows[i], source_head[h]), 8));
    }
  }
}

TEST(KvCache, AppendsToAnEmptyCacheAndClears) {
  Context ctx({Device::cpu, 1});
  Source source(3, 1, 4);
  const int64_t head = 0;
  KvCache cache(ctx, 2, 1, 4, DType::bf16);
  for (int64_t i = 0; i < 3; ++i) cache.append(1, source.row(source.k, i, 0), source.row(source.v, i, 0), &head, i);
  EXPECT_EQ(cache.positions(1, 0), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(cache.bytes(), 2 * 3 * 4 * 2);
  cache.clear();
  EXPECT_EQ(cache.bytes(), 0);
  EXPECT_EQ(cache.capacity_bytes(), 0);
  EXPECT_EQ(cache.length(1, 0), 0);
}

TEST(KvCache, StoringAgainReplacesAndFrees) {
  Context ctx({Device::cpu, 1});
  Source source(100, 1, 8);
  const int64_t head = 0;
  std::vector<int32_t> all(100);
  for (int i = 0; i < 100; ++i) all[i] = i;
  KvCache cache(ctx, 1, 1, 8, DType::bf16);
  cache.store(0, source.k.data(), source.v.data(), 1, &head, source.positions.data(), {all}, 0);
  const int64_t full = ctx.memory().current();
  cache.store(0, source.k.data(), source.v.data(), 1, &head, source.positions.data(), {{4, 9}}, 0);
  EXPECT_EQ(full - ctx.memory().current(), 2 * 98 * 8 * 2);
  EXPECT_EQ(cache.positions(0, 0), (std::vector<int64_t>{1012, 1027}));
}

TEST(KvCache, RefusesWhatDoesNotFit) {
  Context ctx({Device::cpu, 1});
  Source source(4, 2, 4);
  const std::vector<int64_t> wrong = {0, 2};
  KvCache cache(ctx, 1, 2, 4, DType::bf16);
  EXPECT_THROW(cache.store(0, source.k.data(), source.v.data(), 2, wrong.data(), source.positions.data(), {{0}}, 0),
               RuntimeFailure);
  EXPECT_THROW(
      cache.store(0, source.k.data(), source.v.data(), 2, wrong.data(), source.positions.data(), {{0}, {0}}, 0),
      RuntimeFailure);
}

TEST(KeptHash, TellsLayersHeadsAndPositionsApart) {
  std::set<uint64_t> terms;
  for (int64_t layer = 0; layer < 30; ++layer)
    for (int64_t head = 0; head < 8; ++head)
      for (int64_t position = 0; position < 300; ++position) terms.insert(kept_hash_term(layer, head, position));
  EXPECT_EQ(terms.size(), 30u * 8 * 300);
  // Sums of terms, as ranks add them up, differ when one position is exchanged for another.
  EXPECT_NE(kept_hash_term(0, 0, 1) + kept_hash_term(0, 0, 4), kept_hash_term(0, 0, 2) + kept_hash_term(0, 0, 3));
  EXPECT_NE(kept_hash_term(0, 1, 0), kept_hash_term(1, 0, 0));
}

}  // namespace
}  // namespace restkv::testing
