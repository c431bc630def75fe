// The cache of a GPU rank, its account, and the output factors, against the CPU. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "dist/base/error.h"
#include "kvcache/kv_cache.h"
#include "kvcache/output_factors.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/output_weights.h"

namespace restkv::testing {
namespace {

class CacheGpu : public testing::GpuTest {
 protected:
  template <class T>
  std::vector<T> fetch(const T* device, int64_t count) {
    std::vector<T> host(static_cast<size_t>(count));
    gpu->to_host(device, host.data(), count * static_cast<int64_t>(sizeof(T)));
    return host;
  }

  void expect_equal(const KvCache& on_gpu, const KvCache& on_cpu, int64_t layer, int64_t row_bytes);

  Context cpu{Context::Options{Device::cpu, 1}};
};

// Rows, positions, lengths of a layer, as a kernel finds them.
void CacheGpu::expect_equal(const KvCache& on_gpu, const KvCache& on_cpu, int64_t layer, int64_t row_bytes) {
  const DeviceKvLayer device = on_gpu.device_layer(layer);
  const KvView view = on_cpu.view(layer);
  const auto first = fetch(device.first_row, on_gpu.heads());
  const auto length = fetch<int32_t>(device.length, on_gpu.heads());
  for (int64_t h = 0; h < on_gpu.heads(); ++h) {
    ASSERT_EQ(length[h], view.lengths[h]) << "head " << h;
    const int64_t n = length[h];
    for (auto [gpu_rows, cpu_rows] : {std::pair{device.k, view.k}, std::pair{device.v, view.v}}) {
      const auto rows = fetch(static_cast<const char*>(gpu_rows) + first[h] * row_bytes, n * row_bytes);
      EXPECT_EQ(std::memcmp(rows.data(), static_cast<const char*>(cpu_rows) + view.head_offset[h] / view.d * row_bytes,
                            rows.size()),
                0)
          << "head " << h;
    }
    const auto position = fetch<int32_t>(device.position + first[h], n);
    const auto expected = on_cpu.positions(layer, h);
    EXPECT_EQ(std::vector<int64_t>(position.begin(), position.end()), expected) << "head " << h;
  }
}

struct StoreCase {
  DType dtype;
  int64_t d, kv_heads, ld_extra;
  std::vector<int64_t> source_head;
};

struct Tokens {
  std::vector<uint8_t> k, v;
  std::vector<int64_t> wide;
  std::vector<int32_t> narrow;
};

Tokens make_tokens(int64_t n, int64_t row_bytes) {
  std::mt19937 random(4);
  Tokens t;
  for (int64_t i = 0; i < n * row_bytes; ++i) {
    t.k.push_back(static_cast<uint8_t>(random()));
    t.v.push_back(static_cast<uint8_t>(random()));
  }
  for (int64_t i = 0; i < n; ++i) t.wide.push_back(5 + 2 * i), t.narrow.push_back(static_cast<int32_t>(5 + 2 * i));
  return t;
}

TEST_F(CacheGpu, StoresGrowsAndClears) {
  const std::vector<StoreCase> cases = {{DType::bf16, 128, 8, 0, {0, 1, 2, 3, 4, 5, 6, 7}},
                                        {DType::bf16, 64, 3, 8, {0, 0, 0, 1, 1, 1, 2, 2, 2}},
                                        {DType::f32, 256, 1, 0, {0}},
                                        {DType::f32, 24, 2, 1, {1, 0}},
                                        {DType::bf16, 9, 2, 1, {1, 0, 1}}};
  const int64_t n = 700;
  for (const StoreCase& c : cases) {
    const int64_t element = size_of(c.dtype), heads = static_cast<int64_t>(c.source_head.size());
    const int64_t ld = c.kv_heads * c.d + c.ld_extra;
    Tokens t = make_tokens(n, ld * element);
    Tensor k = gpu->to_device(t.k.data(), DType::u8, {n * ld * element});
    Tensor v = gpu->to_device(t.v.data(), DType::u8, {n * ld * element});
    auto view = [&](void* data) { return MatrixView(data, c.dtype, n, c.kv_heads * c.d, ld); };
    Tensor positions[2][2] = {
        {gpu->to_device(t.wide.data(), DType::i64, {n}), gpu->to_device(t.narrow.data(), DType::i32, {n})},
        {cpu.to_device(t.wide.data(), DType::i64, {n}), cpu.to_device(t.narrow.data(), DType::i32, {n})}};
    KvCache on_gpu(*gpu, 3, heads, c.d, c.dtype), on_cpu(cpu, 3, heads, c.d, c.dtype);
    EXPECT_EQ(on_gpu.bytes(), 0);
    auto store = [&](int64_t layer, const KeptRows& kept_gpu, const KeptRows& kept_cpu, int64_t reserve) {
      on_gpu.store(layer, view(k.raw()), view(v.raw()), c.kv_heads, c.source_head, positions[0][layer % 2], kept_gpu,
                   reserve);
      on_cpu.store(layer, view(t.k.data()), view(t.v.data()), c.kv_heads, c.source_head, positions[1][layer % 2],
                   kept_cpu, reserve);
      expect_equal(on_gpu, on_cpu, layer, c.d * element);
    };
    // Ragged rows whose counts the host does not know, equal ones that it knows, and everything.
    std::vector<std::vector<int32_t>> ragged, equal;
    for (int64_t h = 0; h < heads; ++h) {
      ragged.emplace_back(), equal.emplace_back();
      for (int32_t row = static_cast<int32_t>(h); row < n; row += 2 + static_cast<int32_t>(h) % 3)
        ragged[h].push_back(row);
      for (int32_t row = 0; row < 100; ++row) equal[h].push_back(7 * row - static_cast<int32_t>(h % 2) * (row > 0));
    }
    if (heads > 1) ragged[1].clear();
    KeptRows unknown = KeptRows::from_host(*gpu, ragged);
    unknown.known = -1;
    std::vector<int64_t> all_heads(c.source_head.size(), 0);
    store(0, unknown, KeptRows::from_host(cpu, ragged), 0);
    store(1, KeptRows::from_host(*gpu, equal), KeptRows::from_host(cpu, equal), 5);
    store(2, KeptRows::everything(n, all_heads), KeptRows::everything(n, all_heads), 1);
    EXPECT_EQ(on_gpu.length(1, 0), 100);
    EXPECT_EQ(on_gpu.positions(1, heads - 1), on_cpu.positions(1, heads - 1));
    EXPECT_THROW(on_gpu.bytes(), RuntimeFailure);
    on_gpu.refresh_lengths();
    EXPECT_EQ(on_gpu.bytes(), on_cpu.bytes());
    EXPECT_EQ(on_gpu.length(0, 0), on_cpu.length(0, 0));

    EXPECT_FALSE(on_gpu.ensure_room(0));
    EXPECT_TRUE(on_gpu.ensure_room(4));
    for (int64_t layer = 0; layer < 3; ++layer) expect_equal(on_gpu, on_cpu, layer, c.d * element);
    const int64_t capacity = on_gpu.capacity_bytes();
    EXPECT_FALSE(on_gpu.ensure_room(4));
    on_gpu.advance(4);
    EXPECT_EQ(on_gpu.length(1, 0), 104);
    EXPECT_EQ(on_gpu.bytes(), on_cpu.bytes() + 3 * heads * 4 * 2 * c.d * element);
    EXPECT_EQ(on_gpu.capacity_bytes(), capacity);
    EXPECT_THROW(on_gpu.advance(100000), RuntimeFailure);
    EXPECT_THROW(on_gpu.append(0, nullptr, nullptr, nullptr, 0), RuntimeFailure);
    on_gpu.clear();
    EXPECT_EQ(on_gpu.capacity_bytes(), 0);
    for (int32_t length : fetch<int32_t>(on_gpu.device_layer(0).length, 3 * heads)) EXPECT_EQ(length, 0);
  }
}

// A kernel that appended rows told the device; the host hears of it.
TEST_F(CacheGpu, LengthsComeFromTheDevice) {
  const std::vector<float> zeros(64, 0.0f);
  Tensor k = gpu->to_device(zeros.data(), DType::f32, {8, 8});
  Tensor positions = gpu->zeros(DType::i32, {8});
  KvCache cache(*gpu, 1, 2, 4, DType::f32);
  KeptRows kept = KeptRows::from_host(*gpu, {{0, 1, 2}, {4}});
  cache.store(0, MatrixView(k), MatrixView(k), 2, {0, 1}, positions, kept, 6);
  cache.advance(2);
  const int32_t appended[2] = {5, 3};
  gpu->gpu()->to_device(cache.device_layer(0).length, appended, sizeof(appended));
  EXPECT_THROW(cache.length(0, 0), RuntimeFailure);
  cache.refresh_lengths();
  EXPECT_EQ(cache.length(0, 0), 5);
  EXPECT_EQ(cache.length(0, 1), 3);
  EXPECT_EQ(cache.capacity_bytes(), 2 * 2 * (3 + 6) * 4 * 4);
}

// Lengths that only the device knows: storage grows for rows that are there, not for those that may be.
TEST_F(CacheGpu, BoundsOfLengths) {
  KvCache cache(*gpu, 1, 2, 8, DType::bf16);
  cache.make_rows(0, 10, 2);
  const std::vector<int32_t> left = {4, 9};
  gpu->gpu()->to_device(cache.device_layer(0).length, left.data(), 8);
  cache.cut_at_most(0, 0, 9);
  cache.cut_at_most(0, 1, 12);  // no more than there were
  EXPECT_THROW(cache.length(0, 1), RuntimeFailure);
  const int64_t held = cache.capacity_bytes();
  EXPECT_FALSE(cache.ensure_room(2));
  cache.advance(2);
  EXPECT_THROW(cache.advance(1), RuntimeFailure);
  EXPECT_FALSE(cache.ensure_room(3));  // 12 rows are possible, the device has 9
  EXPECT_EQ(cache.length(0, 0), 4);
  EXPECT_EQ(cache.length(0, 1), 9);
  EXPECT_EQ(cache.capacity_bytes(), held);
  EXPECT_TRUE(cache.ensure_room(4));
}

// Heads with counts of their own, a bound on their sum, and sums beside the rows: no room is wasted, growth keeps all.
TEST_F(CacheGpu, RaggedHeadsFollowEachOther) {
  const int64_t n = 500, heads = 5, d = 16, row_bytes = d * 2, ld = heads * d;
  const std::vector<int64_t> source = {0, 1, 2, 3, 4};
  Tokens t = make_tokens(n, ld * 2);
  Tensor k = gpu->to_device(t.k.data(), DType::u8, {n * ld * 2}),
         v = gpu->to_device(t.v.data(), DType::u8, {n * ld * 2});
  auto view = [&](void* data) { return MatrixView(data, DType::bf16, n, heads * d, ld); };
  std::vector<std::vector<int32_t>> rows(heads);
  int64_t together = 0;
  for (int64_t h = 0; h < heads; ++h) {
    for (int32_t row = 0; row < (h == 2 ? 0 : 40 + 60 * h); ++row) rows[h].push_back(row + static_cast<int32_t>(h));
    together += static_cast<int64_t>(rows[h].size());
  }
  for (int64_t spare : {0, 100}) {
    KvCache on_gpu(*gpu, 2, heads, d, DType::bf16), on_cpu(cpu, 2, heads, d, DType::bf16);
    on_gpu.keep_sums();
    for (int64_t layer : {0, 1}) {
      KeptRows kept = KeptRows::from_host(*gpu, rows);
      kept.known = -1;
      kept.together = together + spare;
      on_gpu.store(layer, view(k.raw()), view(v.raw()), heads, source, gpu->to_device(t.wide.data(), DType::i64, {n}),
                   kept, 3);
      on_cpu.store(layer, view(t.k.data()), view(t.v.data()), heads, source,
                   cpu.to_device(t.wide.data(), DType::i64, {n}), KeptRows::from_host(cpu, rows), 3);
    }
    on_gpu.refresh_lengths();
    EXPECT_EQ(on_gpu.capacity_bytes(), 2 * 2 * row_bytes * (together + 3 * heads)) << "with " << spare << " to spare";
    EXPECT_EQ(on_gpu.bytes(), on_cpu.bytes());
    std::vector<int64_t> first(heads), sums;
    for (int64_t i = 0; i < together + 3 * heads; ++i) sums.push_back(i * i);
    gpu->gpu()->to_device(on_gpu.device_layer(1).sums, sums.data(), static_cast<int64_t>(sums.size()) * 8);
    gpu->to_host(on_gpu.device_layer(1).first_row, first.data(), heads * 8);
    for (int64_t layer : {0, 1}) expect_equal(on_gpu, on_cpu, layer, row_bytes);
    EXPECT_FALSE(on_gpu.ensure_room(3));
    EXPECT_TRUE(on_gpu.ensure_room(4));
    const KvCache copy = on_gpu.clone();
    for (const KvCache* cache : {&std::as_const(on_gpu), &copy}) {
      for (int64_t layer : {0, 1}) expect_equal(*cache, on_cpu, layer, row_bytes);
      std::vector<int64_t> now(heads);
      gpu->to_host(cache->device_layer(1).first_row, now.data(), heads * 8);
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t count = on_cpu.length(1, h);
        const auto moved = fetch<int64_t>(cache->device_layer(1).sums + now[h], count);
        EXPECT_EQ(moved, std::vector<int64_t>(sums.begin() + first[h], sums.begin() + first[h] + count))
            << "head " << h;
      }
    }
    on_gpu.advance(4);
    on_gpu.cut(0, 4, 17);
    EXPECT_EQ(on_gpu.length(0, 4), 17);
    EXPECT_THROW(on_gpu.cut(0, 4, 18), RuntimeFailure);
  }
}

TEST_F(CacheGpu, TalliesAsTheCpu) {
  std::mt19937 random(8);
  const int64_t n = 5000;
  std::vector<int64_t> wide;
  for (int64_t i = 0; i < n; ++i) wide.push_back(static_cast<int64_t>(random() % 1000000));
  std::vector<int32_t> narrow(wide.begin(), wide.end());
  std::vector<std::vector<int32_t>> rows(300);
  std::vector<int64_t> head;
  std::vector<bool> counted;
  for (size_t h = 0; h < rows.size(); ++h) {
    for (size_t i = 0; i < h * 5 % 801; ++i) rows[h].push_back(static_cast<int32_t>(random() % n));
    head.push_back(static_cast<int64_t>(h) + 7);
    counted.push_back(h % 4 != 1);
  }
  auto tally = [&](Context& ctx, DType dtype) {
    Tensor positions =
        ctx.to_device(dtype == DType::i64 ? static_cast<const void*>(wide.data()) : narrow.data(), dtype, {n});
    Tensor hash = ctx.zeros(DType::u64, {1}), counts = ctx.zeros(DType::i64, {320});
    KeptRows kept = KeptRows::from_host(ctx, rows, head);
    tally_kept(ctx, 3, kept, counted, positions, hash, counts);
    tally_kept(ctx, 4, KeptRows::everything(n, {2, 9}), {true, false}, positions, hash, counts);
    auto result = ctx.to_host<int64_t>(counts);
    result.push_back(static_cast<int64_t>(ctx.to_host<uint64_t>(hash)[0]));
    return result;
  };
  const auto expected = tally(cpu, DType::i64);
  EXPECT_EQ(tally(*gpu, DType::i64), expected);
  EXPECT_EQ(tally(*gpu, DType::i32), expected);
}

// Spectra as on the CPU, and one so steep that the Gram matrix is singular in double precision.
TEST_F(CacheGpu, OutputFactorsGiveTheNormAfterTheProjection) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  for (double smallest : {1.0, 1e-2, 1e-4, 1e-9})
    for (auto [hidden, heads, d] :
         {std::array<int64_t, 3>{300, 3, 24}, {515, 2, 64}, {600, 2, 128}, {400, 1, 256}, {5, 1, 8}})
      for (DType dtype : {DType::f32, DType::bf16}) {
        Weights w = make_weights(hidden, heads, d, smallest);
        std::vector<bf16> half;
        if (dtype == DType::bf16)
          for (float& x : w.wo) half.push_back(to_bf16(x)), x = to_float(half.back());
        const int64_t columns = heads * d;
        Tensor wo = gpu->to_device(dtype == DType::bf16 ? static_cast<const void*>(half.data()) : w.wo.data(), dtype,
                                   {hidden, columns});
        // The last head alone as well: columns of a wider matrix.
        const MatrixView last = MatrixView(wo).block(0, hidden, columns - d, d);
        const auto r = gpu->to_host<float>(output_factors(*gpu, MatrixView(wo), heads, d));
        const auto r_last = gpu->to_host<float>(output_factors(*gpu, last, 1, d));
        EXPECT_EQ(std::memcmp(r_last.data(), r.data() + (heads - 1) * d * d, r_last.size() * 4), 0);
        for (int64_t h = 0; h < heads; ++h) {
          const float* factor = r.data() + h * d * d;
          for (int64_t i = 0; i < d; ++i) {
            EXPECT_GE(factor[i * d + i], 0.0f);
            for (int64_t j = 0; j < i; ++j) EXPECT_EQ(factor[i * d + j], 0.0f);
          }
          for (int trial = 0; trial < 10; ++trial) {
            std::vector<double> x(static_cast<size_t>(d));
            for (double& value : x) value = normal(random);
            const double expected = direct_norm(w, h, x);
            EXPECT_NEAR(factor_norm(factor, d, x), expected, 1e-6 * expected)
                << "spectrum to " << smallest << ", d " << d << ", head " << h;
          }
        }
      }
}

}  // namespace
}  // namespace restkv::testing
