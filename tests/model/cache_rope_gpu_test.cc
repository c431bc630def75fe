// Keys turned by their slots on the device, against the CPU op on the same bf16 values; and the numbering of rows that
// are spread over ranks. Skips when there is no GPU.
#include <gtest/gtest.h>

#include <algorithm>

#include "kvcache/slots.h"
#include "model/ops/cache_rope.h"
#include "tests/gpu_test.h"
#include "tests/model/decode_batch_fixture.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

using testing::LayerCache;
using testing::StepBuffers;

constexpr int64_t kRoom = 6;

struct Case {
  int64_t batch, Hkv, group, d;
  bool per_query_head;
  std::vector<int32_t> lengths;  // taken in turn by the heads of all sequences
  bool slots;                    // rows carry slots, three apart
  std::vector<int32_t> owner;    // empty: this rank keeps all
  float factor = 1.0f;
};

class CacheRopeGpu : public testing::GpuTest {
 protected:
  void compare(const Case& c);
  void expect_rows(const Case& c, const DecodeHeads& heads, const LayerCache& cache, const StepBuffers& step, int64_t b,
                   const std::vector<bf16>& keys, const std::vector<int32_t>& lengths, const std::vector<bf16>& q);

  static int32_t total_of(const Case& c, int32_t length) { return c.slots ? 3 * length + 2 : length; }
  Tensor table(int64_t d, float factor, int64_t slots) {
    std::vector<int64_t> positions(static_cast<size_t>(slots));
    for (int64_t i = 0; i < slots; ++i) positions[static_cast<size_t>(i)] = i;
    return rope_table(cpu, frequencies(d), positions, factor);
  }
  static std::vector<float> frequencies(int64_t d) {
    RopeConfig rope;
    rope.theta = 10000.0;
    return rope_frequencies(rope, d);
  }

  Context cpu{Context::Options{Device::cpu, 1}};
};

double relative_difference(const float* got, const float* want, int64_t n) {
  double difference = 0.0, norm = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return norm > 0.0 ? std::sqrt(difference / norm) : difference;
}

// Sequence b: keys with the new one, number of rows, queries.
void CacheRopeGpu::expect_rows(const Case& c, const DecodeHeads& heads, const LayerCache& cache,
                               const StepBuffers& step, int64_t b, const std::vector<bf16>& keys,
                               const std::vector<int32_t>& lengths, const std::vector<bf16>& q) {
  const bool owned = c.owner.empty() || c.owner[static_cast<size_t>(b)] != 0;
  const int64_t d = c.d, Hq = heads.Hq_lc();
  int32_t most = 0;
  for (int32_t n : cache.length) most = std::max(most, total_of(c, n));
  const Tensor rotations = table(d, c.factor, most + 1);
  for (int64_t h = 0; h < heads.cache_heads(); ++h) {
    const int32_t n = cache.length[static_cast<size_t>(h)], count = n + (owned ? 1 : 0);
    EXPECT_EQ(lengths[static_cast<size_t>(h)], count) << "sequence " << b << ", head " << h;
    std::vector<float> rows, turned(static_cast<size_t>(count * d)), got;
    std::vector<int32_t> slots;
    for (int64_t row = 0; row < count; ++row) {
      const bf16* from = row < n ? &cache.k[static_cast<size_t>((cache.first_row[h] + row) * d)]
                                 : &step.k[static_cast<size_t>((b * c.Hkv + heads.source[h]) * d)];
      slots.push_back(row == n ? total_of(c, n) : static_cast<int32_t>(c.slots ? 3 * row : row));
      for (int64_t i = 0; i < d; ++i) {
        rows.push_back(to_float(from[i]));
        got.push_back(to_float(keys[static_cast<size_t>((cache.first_row[h] + row) * d + i)]));
      }
    }
    const int64_t offset = 0, length = count;
    KvView view{rows.data(), rows.data(), DType::f32, 1, d, d, &offset, &length};
    view.slots = slots.data();
    if (count > 0) rotate_cache(cpu, view, rotations, turned.data());
    for (int64_t row = 0; row < count; ++row)
      // Not EXPECT_LT: a NaN must fail.
      EXPECT_TRUE(relative_difference(&got[row * d], &turned[row * d], d) < testing::kOpBf16)
          << "sequence " << b << ", head " << h << ", row " << row << " of " << n << ", slot " << slots[row];
  }
  std::vector<float> queries, got;
  for (int64_t i = 0; i < Hq * d; ++i) {
    queries.push_back(to_float(step.q[static_cast<size_t>(b * Hq * d + i)]));
    got.push_back(to_float(q[static_cast<size_t>(b * Hq * d + i)]));
  }
  std::vector<int64_t> slot;
  for (int64_t h = 0; h < heads.cache_heads(); ++h) slot.push_back(total_of(c, cache.length[static_cast<size_t>(h)]));
  rotate_queries(cpu, queries.data(), heads.head, slot, d, rotations);
  for (int64_t i = 0; i < Hq; ++i)
    EXPECT_TRUE(relative_difference(&got[i * d], &queries[i * d], d) < testing::kOpBf16)
        << "sequence " << b << ", query head " << i;
}

void CacheRopeGpu::compare(const Case& c) {
  SCOPED_TRACE("batch " + std::to_string(c.batch) + ", Hkv " + std::to_string(c.Hkv) + ", group " +
               std::to_string(c.group) + ", d " + std::to_string(c.d) + (c.per_query_head ? ", per query head" : "") +
               (c.slots ? ", slots" : ""));
  const DecodeHeads heads = testing::make_heads(c.Hkv, c.group, c.per_query_head);
  const int64_t count = heads.cache_heads();
  std::vector<LayerCache> caches;
  std::vector<DeviceKvLayer> records, views;
  std::vector<Tensor> keys, slots, totals;
  std::vector<bf16> poison;
  Tensor lengths = gpu->zeros(DType::i32, {c.batch, count});
  for (int64_t b = 0; b < c.batch; ++b) {
    std::vector<int32_t> own, total;
    for (int64_t h = 0; h < count; ++h) {
      own.push_back(c.lengths[static_cast<size_t>(b * count + h) % c.lengths.size()]);
      total.push_back(total_of(c, own.back()));
    }
    caches.emplace_back(*gpu, own, kRoom, c.d, 77 * static_cast<uint64_t>(b) + 5);
    const LayerCache& cache = caches.back();
    poison.assign(cache.k.size(), to_bf16(NAN));
    keys.push_back(gpu->to_device(poison.data(), DType::bf16, cache.k_gpu.shape()));
    DeviceKvLayer record = cache.record();
    if (c.slots) {
      std::vector<int32_t> slot(cache.position.size(), -7);
      for (int64_t h = 0; h < count; ++h)
        for (int32_t i = 0; i < own[static_cast<size_t>(h)]; ++i)
          slot[static_cast<size_t>(cache.first_row[h] + i)] = 3 * i;
      slots.push_back(gpu->to_device(slot.data(), DType::i32, {static_cast<int64_t>(slot.size())}));
      totals.push_back(gpu->to_device(total.data(), DType::i32, {count}));
      record.slot = slots.back().data<int32_t>();
      record.total = totals.back().data<int32_t>();
    }
    records.push_back(record);
    record.k = keys.back().raw();
    record.length = lengths.rows(b, 1).data<int32_t>();
    views.push_back(record);
  }
  StepBuffers step(*gpu, c.batch, heads.Hq_lc() * c.d, c.Hkv * c.d, heads.Hq_lc(), 901);
  auto upload = [&](const std::vector<DeviceKvLayer>& all) {
    return gpu->to_device(all.data(), DType::u8, {static_cast<int64_t>(all.size() * sizeof(DeviceKvLayer))});
  };
  const Tensor layer = upload(records), view = upload(views);
  const std::vector<float> f = frequencies(c.d);
  const Tensor frequency = gpu->to_device(f.data(), DType::f32, {c.d / 2});
  Tensor owners;
  BatchCacheRotation args;
  args.q = MatrixView(step.q_gpu);
  args.k = MatrixView(step.k_gpu);
  args.v = MatrixView(step.v_gpu);
  args.position = step.positions_gpu.data<int32_t>();
  if (!c.owner.empty()) {
    owners = gpu->to_device(c.owner.data(), DType::i32, {c.batch});
    args.owner = owners.data<int32_t>();
  }
  args.layer = static_cast<const DeviceKvLayer*>(layer.raw());
  args.view = static_cast<const DeviceKvLayer*>(view.raw());
  args.layer_stride = args.view_stride = 1;
  args.d = c.d;
  args.frequencies = frequency.data<float>();
  args.factor = c.factor;
  rotate_cache_batch(*gpu, args, heads);

  const auto q = gpu->to_host<bf16>(step.q_gpu);
  const auto all_lengths = gpu->to_host<int32_t>(lengths);
  for (int64_t b = 0; b < c.batch; ++b) {
    LayerCache& cache = caches[static_cast<size_t>(b)];
    const auto first = all_lengths.begin() + b * count;
    expect_rows(c, heads, cache, step, b, gpu->to_host<bf16>(keys[static_cast<size_t>(b)]), {first, first + count}, q);
    // The cache has what it had, and the new rows as they came.
    if (c.owner.empty() || c.owner[static_cast<size_t>(b)] != 0)
      for (int64_t h = 0; h < count; ++h)
        cache.append(h, &step.k[static_cast<size_t>((b * c.Hkv + heads.source[h]) * c.d)],
                     &step.v[static_cast<size_t>((b * c.Hkv + heads.source[h]) * c.d)], step.positions[b]);
    const auto k = gpu->to_host<bf16>(cache.k_gpu), v = gpu->to_host<bf16>(cache.v_gpu);
    EXPECT_EQ(0, std::memcmp(k.data(), cache.k.data(), k.size() * sizeof(bf16)));
    EXPECT_EQ(0, std::memcmp(v.data(), cache.v.data(), v.size() * sizeof(bf16)));
    EXPECT_EQ(gpu->to_host<int32_t>(cache.position_gpu), cache.position);
    EXPECT_EQ(gpu->to_host<int32_t>(cache.length_gpu), cache.length);
    if (!c.slots) continue;
    const auto slot = gpu->to_host<int32_t>(slots[static_cast<size_t>(b)]);
    for (int64_t h = 0; h < count; ++h) {
      const int32_t n = cache.length[static_cast<size_t>(h)];
      const bool owned = c.owner.empty() || c.owner[static_cast<size_t>(b)] != 0;
      EXPECT_EQ(slot[static_cast<size_t>(cache.first_row[h] + n)], owned ? total_of(c, n) : -7) << "head " << h;
    }
  }
}

const std::vector<int32_t> kRagged = {0, 1, 7, 63, 64, 1000, 127, 16, 4097, 300};

TEST_F(CacheRopeGpu, ShapesAndLengths) {
  for (int64_t d : {64, 80, 128, 256})
    for (bool slots : {false, true}) {
      compare({1, 2, 4, d, false, kRagged, slots, {}});
      compare({3, 2, 3, d, true, kRagged, slots, {}});
    }
  compare({32, 8, 4, 128, false, kRagged, false, {}});
  compare({1, 1, 1, 64, false, {70000}, false, {}, 1.125f});
}

TEST_F(CacheRopeGpu, RowsOfOtherRanks) {
  compare({4, 2, 4, 128, false, kRagged, true, {1, 0, 0, 1}});
  compare({1, 8, 1, 64, false, {0}, true, {0}});
}

// Three ranks' rows on one device: positions dealt at random, none of head 1 on rank 0.
TEST_F(CacheRopeGpu, SlotsOfRowsOnThreeRanks) {
  constexpr int kRanks = 3;
  constexpr int64_t kHeads = 5, kMost = 900, kAll = 2000;
  std::vector<std::vector<std::vector<int32_t>>> position(kRanks, std::vector<std::vector<int32_t>>(kHeads)),
      want = position;
  std::vector<int32_t> totals(kHeads, 0);
  for (int64_t h = 0; h < kHeads; ++h)
    for (int64_t p = 0; p < kAll; ++p) {
      const uint64_t draw = mix64(static_cast<uint64_t>(h * kAll + p));
      const auto rank = static_cast<size_t>(h == 1 ? 1 + draw % 2 : draw % kRanks);
      // Some tokens were dropped, and head 4 has lost all.
      if (draw % 7 == 0 || h == 4 || position[rank][h].size() == kMost) continue;
      position[rank][h].push_back(static_cast<int32_t>(p));
      want[rank][h].push_back(totals[h]++);
    }
  const int64_t words = kHeads * (kMost + 1);
  Tensor messages = gpu->zeros(DType::i32, {kRanks * words});
  std::vector<DeviceKvLayer> records;
  std::vector<Tensor> memory;
  for (int rank = 0; rank < kRanks; ++rank) {
    std::vector<int64_t> first;
    std::vector<int32_t> length, rows(kHeads * kMost, -1);
    for (int64_t h = 0; h < kHeads; ++h) {
      first.push_back(h * kMost);
      length.push_back(static_cast<int32_t>(position[rank][h].size()));
      std::copy(position[rank][h].begin(), position[rank][h].end(), rows.begin() + h * kMost);
    }
    DeviceKvLayer record;
    auto add = [&](const void* data, DType dtype, int64_t n) {
      memory.push_back(gpu->to_device(data, dtype, {n}));
      return memory.back();
    };
    record.first_row = add(first.data(), DType::i64, kHeads).data<int64_t>();
    record.length = add(length.data(), DType::i32, kHeads).data<int32_t>();
    record.position = add(rows.data(), DType::i32, kHeads * kMost).data<int32_t>();
    record.slot = add(rows.data(), DType::i32, kHeads * kMost).data<int32_t>();
    record.total = add(length.data(), DType::i32, kHeads).data<int32_t>();
    records.push_back(record);
    gpu::pack_positions(*gpu, record, kHeads, kMost, messages.data<int32_t>() + rank * words);
  }
  for (int rank = 0; rank < kRanks; ++rank) {
    gpu::count_slots(*gpu, messages.data<int32_t>(), kRanks, kHeads, kMost, records[rank]);
    std::vector<int32_t> slot(kHeads * kMost), total(kHeads);
    gpu->to_host(records[rank].slot, slot.data(), static_cast<int64_t>(slot.size() * sizeof(int32_t)));
    gpu->to_host(records[rank].total, total.data(), static_cast<int64_t>(total.size() * sizeof(int32_t)));
    EXPECT_EQ(total, totals) << "rank " << rank;
    for (int64_t h = 0; h < kHeads; ++h) {
      const auto first = slot.begin() + h * kMost;
      EXPECT_EQ(std::vector<int32_t>(first, first + static_cast<int64_t>(want[rank][h].size())), want[rank][h])
          << "rank " << rank << ", head " << h;
    }
  }
}

}  // namespace
}  // namespace restkv
