// Batched decode attention on the device against the CPU op, on the same bf16 values. Skips when there is no GPU.
#include <gtest/gtest.h>

#include "dist/base/error.h"
#include "model/ops/attention_decode.h"
#include "tests/gpu_test.h"
#include "tests/model/decode_batch_fixture.h"
#include "tests/tolerances.h"

namespace restkv {
namespace {

using testing::LayerCache;
using testing::StepBuffers;

struct Case {
  int64_t batch, Hkv, group, d;
  bool per_query_head;
  std::vector<int32_t> lengths;  // taken in turn by the heads of all sequences
};

class AttentionDecodeGpu : public testing::GpuTest {
 protected:
  // A batch in memory: one layer.
  struct Batch {
    Case c;
    DecodeHeads heads;
    std::vector<LayerCache> caches;
    StepBuffers step;
    Tensor records, owners, scratch;
    std::vector<int32_t> owner;
  };

  Batch make(const Case& c, const std::vector<int32_t>& owner = {}) {
    DecodeHeads heads = testing::make_heads(c.Hkv, c.group, c.per_query_head);
    std::vector<LayerCache> caches;
    std::vector<DeviceKvLayer> records;
    for (int64_t b = 0; b < c.batch; ++b) {
      std::vector<int32_t> lengths;
      for (int64_t h = 0; h < heads.cache_heads(); ++h)
        lengths.push_back(c.lengths[static_cast<size_t>(b * heads.cache_heads() + h) % c.lengths.size()]);
      caches.emplace_back(*gpu, lengths, 6, c.d, 77 * static_cast<uint64_t>(b) + 5);
      records.push_back(caches.back().record());
    }
    StepBuffers step(*gpu, c.batch, heads.Hq_lc() * c.d, c.Hkv * c.d, heads.Hq_lc(), 901);
    Batch batch{c, heads, std::move(caches), std::move(step), {}, {}, {}, owner};
    batch.records = upload(records);
    if (!owner.empty()) batch.owners = gpu->to_device(owner.data(), DType::i32, {c.batch});
    batch.scratch = decode_attention_scratch(*gpu, c.batch, heads, c.d);
    return batch;
  }

  Tensor upload(const std::vector<DeviceKvLayer>& records) {
    return gpu->to_device(records.data(), DType::u8, {static_cast<int64_t>(records.size() * sizeof(DeviceKvLayer))});
  }

  BatchDecodeAttention args_of(Batch& batch) {
    BatchDecodeAttention args;
    args.q = MatrixView(batch.step.q_gpu);
    args.k = MatrixView(batch.step.k_gpu);
    args.v = MatrixView(batch.step.v_gpu);
    args.position = batch.step.positions_gpu.data<int32_t>();
    args.owner = batch.owner.empty() ? nullptr : batch.owners.data<int32_t>();
    args.layer = static_cast<const DeviceKvLayer*>(batch.records.raw());
    args.layer_stride = 1;
    args.d = batch.c.d;
    args.scale = 1.0 / std::sqrt(static_cast<double>(batch.c.d));
    args.out = MatrixView(batch.step.out);
    args.out_f32 = batch.step.out_f32.data<float>();
    args.lse = batch.step.lse.data<float>();
    return args;
  }

  // Outputs of sequence b against the CPU op, head by head.
  void expect_like_cpu(const Batch& batch, int64_t b) {
    int64_t d = batch.c.d, Hq = batch.heads.Hq_lc(), kv = batch.c.Hkv * d;
    bool owner = batch.owner.empty() || batch.owner[b] != 0;
    auto expected = testing::attend_on_cpu(cpu, batch.caches[b], batch.heads, &batch.step.q[b * Hq * d],
                                           &batch.step.k[b * kv], &batch.step.v[b * kv], owner);
    auto out = gpu->to_host<bf16>(batch.step.out);
    auto out_f32 = gpu->to_host<float>(batch.step.out_f32), lse = gpu->to_host<float>(batch.step.lse);
    for (int64_t h = 0; h < Hq; ++h) {
      std::string where = "sequence " + std::to_string(b) + ", query head " + std::to_string(h) + ", rows " +
                          std::to_string(batch.caches[b].length[batch.heads.head[h]]);
      double difference = 0.0, difference_f32 = 0.0, norm = 0.0;
      for (int64_t c = 0; c < d; ++c) {
        int64_t i = (b * Hq + h) * d + c;
        double want = expected.out[h * d + c];
        difference += std::pow(to_float(out[i]) - want, 2);
        difference_f32 += std::pow(out_f32[i] - want, 2);
        norm += want * want;
      }
      float want = expected.lse[h], got = lse[b * Hq + h];
      if (std::isinf(want)) {
        EXPECT_EQ(got, want) << where;
        EXPECT_EQ(difference + difference_f32, 0.0) << where;
        continue;
      }
      EXPECT_NEAR(got, want, testing::kLogSumExp) << where;
      // Not EXPECT_LT: a NaN must fail.
      EXPECT_TRUE(std::sqrt(difference / norm) < testing::kOpBf16) << where << ": " << std::sqrt(difference / norm);
      EXPECT_TRUE(std::sqrt(difference_f32 / norm) < testing::kOpBf16) << where;
    }
  }

  // The cache holds what it held, and the new rows where this rank keeps them.
  void expect_appended(Batch& batch) {
    for (int64_t b = 0; b < batch.c.batch; ++b) {
      LayerCache& cache = batch.caches[b];
      int64_t kv = batch.c.Hkv * batch.c.d;
      if (batch.owner.empty() || batch.owner[b] != 0)
        for (int64_t h = 0; h < batch.heads.cache_heads(); ++h)
          cache.append(h, &batch.step.k[b * kv + batch.heads.source[h] * batch.c.d],
                       &batch.step.v[b * kv + batch.heads.source[h] * batch.c.d], batch.step.positions[b]);
      expect_same_cache(cache);
    }
  }
  void expect_same_cache(const LayerCache& cache) {
    auto k = gpu->to_host<bf16>(cache.k_gpu), v = gpu->to_host<bf16>(cache.v_gpu);
    EXPECT_EQ(0, std::memcmp(k.data(), cache.k.data(), k.size() * sizeof(bf16)));
    EXPECT_EQ(0, std::memcmp(v.data(), cache.v.data(), v.size() * sizeof(bf16)));
    EXPECT_EQ(gpu->to_host<int32_t>(cache.position_gpu), cache.position);
    EXPECT_EQ(gpu->to_host<int32_t>(cache.length_gpu), cache.length);
  }

  void compare(const Case& c, const std::vector<int32_t>& owner = {}) {
    SCOPED_TRACE("batch " + std::to_string(c.batch) + ", Hkv " + std::to_string(c.Hkv) + ", group " +
                 std::to_string(c.group) + ", d " + std::to_string(c.d) + (c.per_query_head ? ", per query head" : ""));
    Batch batch = make(c, owner);
    attention_decode_batch(*gpu, args_of(batch), batch.heads, batch.scratch);
    for (int64_t b = 0; b < c.batch; ++b) expect_like_cpu(batch, b);
    expect_appended(batch);
  }

  Context cpu{Context::Options{Device::cpu}};
};

const std::vector<int32_t> kRagged = {0, 1, 7, 63, 64, 65, 1000, 127, 15, 16, 17, 4097, 300};

TEST_F(AttentionDecodeGpu, HeadSizesAndGroups) {
  for (int64_t d : {64, 128, 256})
    for (int64_t group : {1, 3, 4, 8})
      for (bool per_query_head : {false, true}) compare({2, 4, group, d, per_query_head, kRagged});
}

TEST_F(AttentionDecodeGpu, OddHeadSizesAndLargeGroups) {
  for (int64_t d : {8, 72, 96, 136}) compare({1, 2, 4, d, false, {65, 300}});
  for (int64_t group : {9, 16})
    for (int64_t d : {64, 128, 256}) compare({2, 2, group, d, false, {65, 1000, 0, 31}});
}

TEST_F(AttentionDecodeGpu, Batches) {
  for (int64_t batch : {1, 2, 5, 8}) compare({batch, 2, 4, 128, false, {1000, 40000, 63, 2112, 2111, 4097}});
  compare({64, 1, 2, 64, false, kRagged});
}

TEST_F(AttentionDecodeGpu, ManyCacheHeads) {
  compare({1, 32, 1, 64, false, kRagged});
  compare({2, 32, 4, 64, true, kRagged});
  compare({1, 1, 8, 128, false, {20000}});
}

TEST_F(AttentionDecodeGpu, OnlyOwnersAppendAndAttendTheNewRow) {
  compare({5, 2, 4, 128, false, {0, 64, 65, 1000, 1, 2112}}, {0, 1, 0, 1, 0});
  compare({2, 2, 3, 64, true, {0, 0, 0, 0, 0, 0}}, {0, 0});
}

TEST_F(AttentionDecodeGpu, UnevenGroupsOfACutLayout) {
  Batch batch = make({2, 3, 4, 64, false, {100, 64, 3000}});
  // Of the twelve query heads this rank has those from 2 to 9: two, four and one of the three groups.
  batch.heads.head = {0, 0, 1, 1, 1, 1, 2};
  batch.step = StepBuffers(*gpu, 2, 7 * 64, 3 * 64, 7, 13);
  attention_decode_batch(*gpu, args_of(batch), batch.heads, batch.scratch);
  for (int64_t b = 0; b < 2; ++b) expect_like_cpu(batch, b);
}

TEST_F(AttentionDecodeGpu, EmptyPlacesOfTheBatch) {
  Batch batch = make({3, 2, 4, 128, false, {100, 1500}});
  std::vector<DeviceKvLayer> records = {batch.caches[0].record(), {}, batch.caches[2].record()};
  batch.records = upload(records);
  attention_decode_batch(*gpu, args_of(batch), batch.heads, batch.scratch);
  expect_like_cpu(batch, 0);
  expect_like_cpu(batch, 2);
  auto out = gpu->to_host<float>(batch.step.out_f32);
  for (int64_t i = 8 * 128; i < 2 * 8 * 128; ++i) ASSERT_EQ(out[i], 0.0f);
}

TEST_F(AttentionDecodeGpu, SameBitsInAnyBatchAndGrid) {
  for (int64_t d : {64, 128}) {
    Batch batch = make({5, 2, 4, d, false, {1000, 9000, 63, 2112, 4097, 129, 0, 40000, 65, 2}});
    auto run = [&](BatchDecodeAttention args, int64_t blocks, int64_t depth, bool settled) {
      args.blocks_per_head = blocks;
      args.depth = depth;
      args.settled = settled;
      attention_decode_batch(*gpu, args, batch.heads, batch.scratch);
      auto bits = gpu->to_host<float>(batch.step.out_f32), lse = gpu->to_host<float>(batch.step.lse);
      bits.insert(bits.end(), lse.begin(), lse.end());
      return bits;
    };
    BatchDecodeAttention all = args_of(batch);
    std::vector<float> expected = run(all, 0, 0, false);
    for (int64_t blocks : {1, 2, 5, 16, 33, 132})
      for (int64_t depth : {1, 2, 3})
        for (bool settled : {false, true}) {
          std::vector<float> got = run(all, blocks, depth, settled);
          EXPECT_EQ(0, std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)))
              << blocks << " blocks, depth " << depth;
        }
    for (int64_t b = 0; b < 5; ++b) {
      BatchDecodeAttention one = all;
      one.q = one.q.block(b, 1, 0, one.q.cols);
      one.k = one.k.block(b, 1, 0, one.k.cols);
      one.v = one.v.block(b, 1, 0, one.v.cols);
      one.out = one.out.block(b, 1, 0, one.out.cols);
      one.layer += b;
      one.position += b;
      run(one, 0, 0, false);
      auto got = gpu->to_host<float>(batch.step.out_f32);
      EXPECT_EQ(0, std::memcmp(got.data(), &expected[b * 8 * d], 8 * d * sizeof(float))) << "sequence " << b;
    }
  }
}

// Positions of the rows and offsets into them pass 2^31 elements.
TEST_F(AttentionDecodeGpu, Rows256KAndOffsetsBeyond31Bits) {
  compare({1, 1, 4, 128, false, {262144}});
  Batch batch = make({1, 2, 4, 128, false, {500, 300}});
  // Head 1's rows lie 17 million rows (2.2e9 elements, 4.4 GB) behind head 0's.
  int64_t far = 17000000;
  Tensor k = gpu->empty(DType::bf16, {far + 400, 128}), v = gpu->empty(DType::bf16, {far + 400, 128}),
         position = gpu->empty(DType::i32, {far + 400});
  LayerCache& cache = batch.caches[0];
  int64_t second = cache.first_row[1];
  gpu->gpu()->copy(k.raw(), cache.k_gpu.raw(), second * 256);
  gpu->gpu()->copy(v.raw(), cache.v_gpu.raw(), second * 256);
  gpu->gpu()->copy(k.data<bf16>() + far * 128, cache.k_gpu.data<bf16>() + second * 128, 300 * 256);
  gpu->gpu()->copy(v.data<bf16>() + far * 128, cache.v_gpu.data<bf16>() + second * 128, 300 * 256);
  std::vector<int64_t> first_row = {0, far};
  cache.first_row_gpu = gpu->to_device(first_row.data(), DType::i64, {2});
  DeviceKvLayer record = cache.record();
  record.k = k.raw();
  record.v = v.raw();
  record.position = position.data<int32_t>();
  batch.records = upload({record});
  attention_decode_batch(*gpu, args_of(batch), batch.heads, batch.scratch);
  expect_like_cpu(batch, 0);
  std::vector<bf16> row(128);
  gpu->to_host(k.data<bf16>() + (far + 300) * 128, row.data(), 256);
  EXPECT_EQ(0, std::memcmp(row.data(), &batch.step.k[128], 256));
}

TEST_F(AttentionDecodeGpu, RefusesWhatItCannotDo) {
  Batch batch = make({1, 1, 4, 64, false, {10}});
  auto refused = [&](auto change) {
    BatchDecodeAttention args = args_of(batch);
    DecodeHeads heads = batch.heads;
    change(args, heads);
    EXPECT_THROW(attention_decode_batch(*gpu, args, heads, batch.scratch), std::exception);
  };
  refused([](BatchDecodeAttention& args, DecodeHeads&) { args.d = 60; });
  refused([](BatchDecodeAttention& args, DecodeHeads&) { args.q.dtype = DType::f32; });
  refused([](BatchDecodeAttention&, DecodeHeads& heads) { heads.source[0] = 1; });
  refused([](BatchDecodeAttention&, DecodeHeads& heads) { heads.head[3] = 1; });
  refused([](BatchDecodeAttention&, DecodeHeads& heads) { heads.head.assign(17, 0); });
  EXPECT_THROW(attention_decode_batch(*gpu, args_of(batch), batch.heads, gpu->zeros(DType::u8, {64})), std::exception);
}

// A step of two layers is captured once and replayed while the caches grow across the edges of tiles and splits.
TEST_F(AttentionDecodeGpu, GraphOverGrowingCachesEqualsEager) {
  constexpr int64_t kLayers = 2, kBatch = 2;
  DecodeHeads heads = testing::make_heads(2, 4, false);
  struct World {
    std::vector<LayerCache> caches;  // [batch, layers]
    StepBuffers step;
    Tensor records, steps;
  };
  auto make_world = [&] {
    World world{{}, StepBuffers(*gpu, kBatch, 8 * 64, 2 * 64, 8, 31), {}, {}};
    std::vector<DeviceKvLayer> records;
    for (int64_t i = 0; i < kBatch * kLayers; ++i) {
      world.caches.emplace_back(*gpu, std::vector<int32_t>{static_cast<int32_t>(61 + i), 8446}, 6, 64, 7 * i);
      records.push_back(world.caches.back().record());
    }
    world.records = upload(records);
    world.steps = gpu->zeros(DType::i32, {kBatch});
    return world;
  };
  Tensor scratch = decode_attention_scratch(*gpu, kBatch, heads, 64);
  std::vector<Tensor> outs(2);
  auto enqueue = [&](World& world, Tensor& out, bool settled) {
    auto* records = static_cast<const DeviceKvLayer*>(world.records.raw());
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      BatchDecodeAttention args;
      args.q = MatrixView(world.step.q_gpu);
      args.k = MatrixView(world.step.k_gpu);
      args.v = MatrixView(world.step.v_gpu);
      args.position = world.step.positions_gpu.data<int32_t>();
      args.layer = records + layer;
      args.layer_stride = kLayers;
      args.d = 64;
      args.scale = 0.125;
      args.settled = settled;
      args.out_f32 = out.data<float>() + layer * kBatch * 8 * 64;
      attention_decode_batch(*gpu, args, heads, scratch);
    }
    advance_decode(
        *gpu, {records, kBatch, kLayers, 2, world.step.positions_gpu.data<int32_t>(), world.steps.data<int32_t>()});
  };
  World eager = make_world(), replayed = make_world();
  for (Tensor& out : outs) out = gpu->zeros(DType::f32, {kLayers, kBatch, 8 * 64});
  auto graph = gpu->gpu()->capture([&] { enqueue(replayed, outs[1], true); });
  for (uint64_t step = 0; step < 5; ++step) {
    for (World* world : {&eager, &replayed})
      for (Tensor* input : {&world->step.q_gpu, &world->step.k_gpu, &world->step.v_gpu}) {
        auto fresh = testing::random_bf16(input->numel(), 100 * step + static_cast<uint64_t>(input->numel()));
        gpu->gpu()->to_device(input->raw(), fresh.data(), input->bytes());
      }
    enqueue(eager, outs[0], false);
    gpu->gpu()->launch(graph.get());
    EXPECT_EQ(gpu->to_host<float>(outs[0]), gpu->to_host<float>(outs[1])) << "step " << step;
  }
  for (size_t i = 0; i < eager.caches.size(); ++i) {
    const LayerCache &a = eager.caches[i], &b = replayed.caches[i];
    auto lengths = gpu->to_host<int32_t>(b.length_gpu);
    EXPECT_EQ(lengths, (std::vector<int32_t>{a.length[0] + 5, 8451}));
    EXPECT_EQ(gpu->to_host<int32_t>(a.position_gpu), gpu->to_host<int32_t>(b.position_gpu));
    int32_t first = 100000 + 17 * static_cast<int32_t>(i / kLayers);
    EXPECT_EQ(gpu->to_host<int32_t>(b.position_gpu)[a.length[0] + 4], first + 4);
    auto k = gpu->to_host<bf16>(a.k_gpu), other = gpu->to_host<bf16>(b.k_gpu);
    EXPECT_EQ(0, std::memcmp(k.data(), other.data(), k.size() * sizeof(bf16)));
  }
  EXPECT_EQ(gpu->to_host<int32_t>(replayed.steps), (std::vector<int32_t>{5, 5}));
}

TEST_F(AttentionDecodeGpu, NewTokensGoRoundTheSequenceRanks) {
  LayerCache cache(*gpu, {10, 20}, 6, 64, 1);
  Tensor records = upload({cache.record()});
  std::vector<int32_t> position = {100}, prompt = {100}, owner = {0};
  Tensor positions = gpu->to_device(position.data(), DType::i32, {1}),
         prompts = gpu->to_device(prompt.data(), DType::i32, {1}),
         owners = gpu->to_device(owner.data(), DType::i32, {1});
  DecodeAdvance args{static_cast<const DeviceKvLayer*>(records.raw()),
                     1,
                     1,
                     2,
                     positions.data<int32_t>(),
                     nullptr,
                     owners.data<int32_t>(),
                     prompts.data<int32_t>(),
                     3,
                     2};
  std::vector<int32_t> owned;
  for (int step = 0; step < 7; ++step) {
    advance_decode(*gpu, args);
    owned.push_back(gpu->to_host<int32_t>(owners)[0]);
  }
  EXPECT_EQ(owned, (std::vector<int32_t>{0, 1, 0, 0, 1, 0, 0}));  // tokens 2 and 5 of 0 to 7
  EXPECT_EQ(gpu->to_host<int32_t>(cache.length_gpu), (std::vector<int32_t>{12, 22}));
  EXPECT_EQ(gpu->to_host<int32_t>(positions)[0], 107);
}

TEST_F(AttentionDecodeGpu, MergeOfPartialResults) {
  for (int64_t d : {64, 96, 256})
    for (int64_t parts : {1, 2, 5}) {
      int64_t rows = 11, stride = rows * (d + 1);
      std::vector<float> message, out, lse;  // as an all-gather leaves it: a part's outputs, then its sums
      for (int64_t part = 0; part < parts; ++part) {
        for (bf16 x : testing::random_bf16(rows * d, 7 * part)) message.push_back(to_float(x));
        for (int64_t row = 0; row < rows; ++row)
          message.push_back((part > 0 && row % 4 == 1) || row % 8 == 7 ? -INFINITY
                                                                       : static_cast<float>((row * 7 + part * 5) % 13));
        out.insert(out.end(), message.end() - stride, message.end() - rows);
        lse.insert(lse.end(), message.end() - rows, message.end());
      }
      std::vector<float> expected(static_cast<size_t>(rows * d)), poison(expected.size(), NAN);
      merge_partial_attention(cpu, out.data(), lse.data(), parts, rows, d, expected.data());
      Tensor in = gpu->to_device(message.data(), DType::f32, {parts, stride});
      Tensor merged = gpu->to_device(poison.data(), DType::f32, {rows, d}), half = gpu->zeros(DType::bf16, {rows, d});
      Tensor total = gpu->zeros(DType::f32, {rows});
      merge_partial_attention(*gpu, PartialMerge{in.data<float>(), in.data<float>() + rows * d, parts, stride, stride,
                                                 rows, d, merged.data<float>(), half.raw(), total.data<float>()});
      auto got_total = gpu->to_host<float>(total);
      for (int64_t row = 0; row < rows; ++row) {
        double sum = 0.0;
        for (int64_t part = 0; part < parts; ++part) sum += std::exp(static_cast<double>(lse[part * rows + row]));
        if (sum == 0.0) {
          EXPECT_EQ(got_total[row], -INFINITY) << row;
        } else {
          EXPECT_NEAR(got_total[row], std::log(sum), testing::kLogSumExp) << row;
        }
      }
      auto got = gpu->to_host<float>(merged);
      auto got_half = gpu->to_host<bf16>(half);
      for (size_t i = 0; i < got.size(); ++i) {
        EXPECT_NEAR(got[i], expected[i], 1.7 * testing::kLogSumExp) << i;
        EXPECT_EQ(to_float(got_half[i]), to_float(to_bf16(got[i])));
      }
    }
}

}  // namespace
}  // namespace restkv
