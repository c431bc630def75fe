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
  MatrixView view(std::vector<uint16_t>& x) const { return {x.data(), DType::bf16, n, kv_heads * d, kv_heads * d}; }
  void store(Context& ctx, KvCache& cache, int64_t layer, const std::vector<int64_t>& source_head,
             const std::vector<std::vector<int32_t>>& rows, int64_t reserve) {
    cache.store(layer, view(k), view(v), kv_heads, source_head, Tensor::view(positions.data(), DType::i64, {n}),
                KeptRows::from_host(ctx, rows), reserve);
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
  source.store(ctx, cache, 1, source_head, rows, 2);
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
  source.store(ctx, cache, 0, source_head, {{0, 1, 2}, {5}}, 2);
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
  KvCache cache(ctx, 1, 1, 8, DType::bf16);
  cache.store(0, source.view(source.k), source.view(source.v), 1, {0},
              Tensor::view(source.positions.data(), DType::i64, {100}), KeptRows::everything(100, {0}), 0);
  EXPECT_EQ(cache.positions(0, 0), source.positions);
  EXPECT_TRUE(same_bits(cache.view(0).v, source.v.data(), 100 * 8 * 2));
  const int64_t full = ctx.memory().current();
  source.store(ctx, cache, 0, {0}, {{4, 9}}, 0);
  EXPECT_EQ(full - ctx.memory().current(), 2 * 98 * 8 * 2 + 98 * 4);  // keys, values and positions
  EXPECT_EQ(cache.positions(0, 0), (std::vector<int64_t>{1012, 1027}));
}

TEST(KvCache, ACloneHasTheSameRowsInMemoryOfItsOwn) {
  Context ctx({Device::cpu, 1});
  Source source(50, 2, 8);
  KvCache cache(ctx, 2, 2, 8, DType::bf16);
  source.store(ctx, cache, 0, {0, 1}, {{0, 7, 49}, {3}}, 1);
  source.store(ctx, cache, 1, {1, 0}, {{}, {4, 5}}, 1);
  int64_t before = ctx.memory().current();
  KvCache clone = cache.clone();
  EXPECT_EQ(ctx.memory().current() - before, cache.capacity_bytes() + (6 + 4) * 4);  // and i32 positions
  std::vector<uint16_t> row(16, 9);
  cache.append(0, row.data(), row.data(), std::vector<int64_t>{0, 1}.data(), 5000);
  EXPECT_EQ(cache.length(0, 0), 4);
  EXPECT_EQ(clone.length(0, 0), 3);
  clone.append(0, source.row(source.k, 9, 0), source.row(source.v, 9, 0), std::vector<int64_t>{0, 1}.data(), 6000);
  EXPECT_EQ(cache.positions(0, 0).back(), 5000);
  EXPECT_EQ(clone.positions(0, 0), (std::vector<int64_t>{1000, 1021, 1147, 6000}));
  for (int64_t i : {0, 1, 2}) {
    const int32_t from = std::vector<int32_t>{0, 7, 49}[static_cast<size_t>(i)];
    EXPECT_TRUE(same_bits(clone.view(0).k_head<uint16_t>(0) + i * 8, source.row(source.k, from, 0), 16));
    EXPECT_TRUE(same_bits(clone.view(0).v_head<uint16_t>(0) + i * 8, source.row(source.v, from, 0), 16));
  }
  EXPECT_TRUE(same_bits(clone.view(0).k_head<uint16_t>(0) + 24, source.row(source.k, 9, 0), 16));
  EXPECT_EQ(clone.positions(1, 1), (std::vector<int64_t>{1012, 1015}));
}

TEST(KvCache, RefusesWhatDoesNotFit) {
  Context ctx({Device::cpu, 1});
  Source source(4, 2, 4);
  const std::vector<int64_t> wrong = {0, 2};
  KvCache cache(ctx, 1, 2, 4, DType::bf16);
  EXPECT_THROW(source.store(ctx, cache, 0, {0}, {{0}}, 0), RuntimeFailure);
  EXPECT_THROW(source.store(ctx, cache, 0, wrong, {{0}, {0}}, 0), RuntimeFailure);
  EXPECT_THROW(source.store(ctx, cache, 0, {0, 1}, {{0}, {0}}, -1), RuntimeFailure);
  KvCache f32(ctx, 1, 2, 4, DType::f32);
  EXPECT_THROW(source.store(ctx, f32, 0, {0, 1}, {{0}, {0}}, 0), RuntimeFailure);
}

TEST(KvCache, MakesRoomAhead) {
  Context ctx({Device::cpu, 1});
  Source source(9, 2, 4);
  KvCache cache(ctx, 2, 2, 4, DType::bf16);
  source.store(ctx, cache, 0, {0, 1}, {{0, 3}, {1, 2, 8}}, 4);
  source.store(ctx, cache, 1, {0, 1}, {{0}, {1}}, 7);
  EXPECT_FALSE(cache.ensure_room(4));
  const void* roomy = cache.view(1).k;
  EXPECT_TRUE(cache.ensure_room(6));
  EXPECT_EQ(cache.view(1).k, roomy);
  EXPECT_GE(cache.capacity_bytes(), 2 * (2 + 3 + 12 + 2 + 14) * 4 * 2);
  EXPECT_EQ(cache.bytes(), 2 * 7 * 4 * 2);
  EXPECT_EQ(cache.positions(0, 1), (std::vector<int64_t>{1003, 1006, 1024}));
  EXPECT_TRUE(same_bits(cache.view(0).v_head<uint16_t>(1) + 2 * 4, source.row(source.v, 8, 1), 8));
}

TEST(TallyKept, AddsHashesAndCountsOfTheCountedHeads) {
  Context ctx({Device::cpu, 1});
  std::vector<int64_t> wide = {5, 6, 9, 12};
  std::vector<int32_t> narrow(wide.begin(), wide.end());
  const KeptRows kept = KeptRows::from_host(ctx, {{0, 3}, {1}, {1, 2, 3}}, {4, 5, 6});
  for (const Tensor& positions :
       {Tensor::view(wide.data(), DType::i64, {4}), Tensor::view(narrow.data(), DType::i32, {4})}) {
    Tensor hash = ctx.zeros(DType::u64, {1}), counts = ctx.zeros(DType::i64, {8});
    tally_kept(ctx, 2, kept, {true, false, true}, positions, hash, counts);
    tally_kept(ctx, 3, KeptRows::everything(4, {7}), {true}, positions, hash, counts);
    uint64_t expected = kept_hash_term(2, 4, 5) + kept_hash_term(2, 4, 12);
    for (int64_t p : {6, 9, 12}) expected += kept_hash_term(2, 6, p);
    for (int64_t p : wide) expected += kept_hash_term(3, 7, p);
    EXPECT_EQ(hash.data<uint64_t>()[0], expected);
    EXPECT_EQ(ctx.to_host<int64_t>(counts), (std::vector<int64_t>{0, 0, 0, 0, 2, 0, 3, 4}));
  }
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

TEST(KvCacheClone, AppendsToItsOwnRows) {
  Context ctx({Device::cpu, 1});
  KvCache cache(ctx, 1, 1, 2, DType::f32);
  const std::vector<float> rows = {1, 2, 3, 4};
  const std::vector<int64_t> positions = {0, 1};
  cache.store(0, MatrixView(rows.data(), 2, 2), MatrixView(rows.data(), 2, 2), 1, {0},
              ctx.to_device(positions.data(), DType::i64, {2}), KeptRows::everything(2, {0}), 4);
  KvCache copy = cache.clone();
  const float more[2] = {5, 6}, other[2] = {7, 8};
  const int64_t source = 0;
  cache.append(0, more, more, &source, 2);
  copy.append(0, other, other, &source, 3);
  EXPECT_EQ(cache.positions(0, 0), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(copy.positions(0, 0), (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(cache.view(0).k_head<float>(0)[4], 5.0f);
  EXPECT_EQ(copy.view(0).k_head<float>(0)[4], 7.0f);
  EXPECT_EQ(copy.view(0).k_head<float>(0)[3], 4.0f);
}

}  // namespace
}  // namespace restkv::testing
