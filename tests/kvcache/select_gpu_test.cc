// Selection and smoothing on a GPU against the CPU, bit for bit. Skips when there is no GPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "dist/base/error.h"
#include "kvcache/scores/drift.h"
#include "kvcache/scores/pooling.h"
#include "kvcache/select/radix_select.h"
#include "kvcache/statistics/past_edges.h"
#include "kvcache/statistics/window_attention.h"
#include "tests/gpu_test.h"
#include "tests/kvcache/select_rows.h"

namespace restkv::testing {
namespace {

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

class SelectGpu : public testing::GpuTest {
 protected:
  // An output tensor in which an element that nobody writes is found.
  Tensor poisoned(DType dtype, Shape shape) {
    Tensor t = gpu->empty(dtype, std::move(shape));
    const std::vector<uint8_t> poison(static_cast<size_t>(t.bytes()), 0xff);
    if (!t.empty()) gpu->gpu()->to_device(t.raw(), poison.data(), t.bytes());
    return t;
  }

  struct Layout {
    int64_t gap_before, gap_between, stride_extra, split;  // split: values in the first of two runs
  };

  void compare(const std::vector<Row>& rows, const std::vector<int64_t>& k, const Layout& layout,
               const std::string& name);
  void compare_beside(int64_t L, int64_t W, double part);

  Context cpu{Context::Options{Device::cpu, 1}};
  std::unique_ptr<Communicator> self = make_self_communicator();
};

void SelectGpu::compare(const std::vector<Row>& rows, const std::vector<int64_t>& k, const Layout& layout,
                        const std::string& name) {
  const int64_t n = static_cast<int64_t>(rows[0].size()), count = static_cast<int64_t>(rows.size());
  const int64_t split = std::min(layout.split, n), second = layout.gap_before + split + layout.gap_between;
  std::vector<Segment> segments = {{layout.gap_before, 0, split}};
  if (split < n) segments.push_back({second, split, n - split});
  const int64_t stride = second + n - split + layout.stride_extra;
  std::vector<float> values(static_cast<size_t>(count * stride), kInf);  // outside the runs: tempting
  for (int64_t row = 0; row < count; ++row) {
    std::copy_n(rows[row].begin(), split, values.begin() + row * stride + layout.gap_before);
    std::copy(rows[row].begin() + split, rows[row].end(), values.begin() + row * stride + second);
  }
  Tensor on_gpu = gpu->to_device(values.data(), DType::f32, {count, stride});
  const SelectRows a{values.data(), count, stride, &segments, n};
  SelectRows b = a;
  b.values = on_gpu.data<float>();
  const SelectResult want = select_top(cpu, *self, a, k), got = select_top(*gpu, *self, b, k);
  const auto cuts = cpu.to_host<uint32_t>(want.cuts);
  EXPECT_EQ(gpu->to_host<uint32_t>(got.cuts), cuts) << name;
  EXPECT_EQ(gpu->to_host<int32_t>(got.tied), cpu.to_host<int32_t>(want.tied)) << name;
  EXPECT_EQ(got.tied_rows(*gpu), want.tied_rows(cpu)) << name;
  std::vector<int64_t> sums(static_cast<size_t>(count));
  top_set_sums(cpu, a, want.cut(), sums.data());
  Tensor sums_gpu = poisoned(DType::i64, {count});
  top_set_sums(*gpu, b, got.cut(), sums_gpu.data<int64_t>());
  EXPECT_EQ(gpu->to_host<int64_t>(sums_gpu), sums) << name;
  const int64_t capacity = *std::max_element(k.begin(), k.end()) + 3;
  const Range tail{stride - 3, stride};
  const TopRows want_rows = top_set_rows(cpu, a, want.cut(), tail, capacity),
                got_rows = top_set_rows(*gpu, b, got.cut(), tail, capacity);
  const auto counts = cpu.to_host<int32_t>(want_rows.counts);
  EXPECT_EQ(gpu->to_host<int32_t>(got_rows.counts), counts) << name;
  const auto list = cpu.to_host<int32_t>(want_rows.rows), list_gpu = gpu->to_host<int32_t>(got_rows.rows);
  for (int64_t row = 0; row < count; ++row) {
    ASSERT_EQ(counts[row], k[row] + 3) << name;
    EXPECT_TRUE(std::equal(list.begin() + row * capacity, list.begin() + row * capacity + counts[row],
                           list_gpu.begin() + row * capacity))
        << name << ", row " << row;
  }
  // One count for all rows, with the sums.
  Tensor fused = poisoned(DType::i64, {count});
  const SelectResult equal = select_top(*gpu, *self, b, k[0], fused.data<int64_t>()),
                     equal_cpu = select_top(cpu, *self, a, k[0], sums.data());
  EXPECT_EQ(gpu->to_host<uint32_t>(equal.cuts), cpu.to_host<uint32_t>(equal_cpu.cuts)) << name;
  EXPECT_EQ(gpu->to_host<int64_t>(fused), sums) << name;
}

TEST_F(SelectGpu, AgreesWithTheCpuOnAdversarialRows) {
  const Layout layouts[] = {{0, 0, 0, 1 << 30}, {1, 0, 2, 1 << 30}, {16, 32, 0, 1000}, {3, 5, 1, 700}};
  int layout = 0;
  for (int64_t n : {1, 2, 31, 257, 2500, 4096, 4097, 5003, 20011, 131072})
    for (double part : {0.0, 0.0075, 0.1, 0.5, 0.999, 1.0}) {
      const auto rows = adversarial_rows(n);
      std::vector<int64_t> k;
      for (size_t row = 0; row < rows.size(); ++row)
        k.push_back(std::clamp<int64_t>(
            static_cast<int64_t>(part * static_cast<double>(n)) + static_cast<int64_t>(row % 2), 0, n));
      compare(rows, k, layouts[layout++ % 4], std::to_string(n) + ", part " + std::to_string(part));
    }
}

TEST_F(SelectGpu, NanComesLast) {
  for (int64_t n : {7, 5000, 70000}) {
    const std::vector<Row> rows = {make_row(n, [](int64_t i) { return i % 2 == 0 ? std::nanf("") : -kInf; }),
                                   make_row(n, [](int64_t) { return -std::nanf(""); }),
                                   make_row(n, [](int64_t i) { return i % 3 == 0 ? std::nanf("") : float(i % 71); })};
    for (int64_t k : {int64_t{0}, int64_t{1}, n / 2, n / 2 + 1, 2 * n / 3 + 2, n})
      compare(rows, {k, k, k}, {0, 0, 4, 1 << 30}, "NaN, k " + std::to_string(k));
  }
}

// Where the large values lie must not matter: all in one place, on a grid that a sample may miss or hit, at the ends.
TEST_F(SelectGpu, FindsClusteredAndPeriodicValues) {
  for (int64_t n : {40000, 131072, 300001}) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    auto with = [&](const std::function<bool(int64_t)>& large) {
      return make_row(n, [&](int64_t i) { return normal(random) + (large(i) ? 20.0f : 0.0f); });
    };
    const std::vector<Row> rows = {with([&](int64_t i) { return i >= n - 992; }),
                                   with([&](int64_t i) { return i < 300; }),
                                   with([&](int64_t i) { return i / 5000 == 3; }),
                                   with([&](int64_t i) { return i % 256 == 17; }),
                                   with([&](int64_t i) { return i % 256 < 8; }),
                                   with([&](int64_t i) { return i / 64 % 40 == 3; }),
                                   make_row(n, [&](int64_t i) { return i < n - 31 ? normal(random) : -kInf; }),
                                   make_row(n, [&](int64_t i) { return i % 2 == 0 ? normal(random) : -kInf; }),
                                   make_row(n, [&](int64_t i) { return i % 100 == 0 ? normal(random) : 0.0f; }),
                                   make_row(n, [&](int64_t) { return 1000.0f + 1e-3f * normal(random); })};
    for (int64_t k : {int64_t{1}, int64_t{17}, int64_t{992}, n / 5, n / 2, n - 5})
      compare(rows, std::vector<int64_t>(rows.size(), k), {0, 0, 0, 1 << 30},
              std::to_string(n) + " clustered, k " + std::to_string(k));
  }
}

TEST_F(SelectGpu, ManyRows) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<Row> rows;
  std::vector<int64_t> k;
  for (int64_t row = 0; row < 700; ++row) {
    rows.push_back(make_row(9001, [&](int64_t) { return row % 7 == 3 ? std::round(normal(random)) : normal(random); }));
    k.push_back(50 + row);
  }
  compare(rows, k, {0, 0, 7, 5000}, "many rows");
}

// The attention pass lists the candidates: its own result must not change, nor that of the selection.
void SelectGpu::compare_beside(int64_t L, int64_t W, double part) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  const LocalShard shard = make_local_shard(SequencePartition(L, 1), 0, W);
  std::vector<Row> rows = adversarial_rows(L);
  const int64_t Hq = static_cast<int64_t>(rows.size()) / W + 2, count = Hq * W;
  const std::string name = fmt::format("L {}, W {}, part {}", L, W, part);
  while (static_cast<int64_t>(rows.size()) < count) {
    const int64_t hot = static_cast<int64_t>(random() % static_cast<uint32_t>(L));  // large values at one place
    rows.push_back(make_row(L, [&](int64_t i) {
      return i % 997 == 5 ? std::nanf("") : normal(random) + (i >= hot && i < hot + 700 ? 9.0f : 0.0f);
    }));
  }
  std::vector<float> values(static_cast<size_t>(count * shard.stride), kInf), softmax;
  for (int64_t row = 0; row < count; ++row) {
    std::copy(rows[row].begin(), rows[row].end(), values.begin() + row * shard.stride);
    softmax.insert(softmax.end(), {2.0f + static_cast<float>(row), row % 5 == 4 ? 0.0f : 0.125f});
  }
  const HeadLayout heads{Hq, Hq, 64, {{0, Hq}, {0, Hq}}};
  Tensor logits = gpu->to_device(values.data(), DType::f32, {count, shard.stride});
  Tensor rest = gpu->to_device(softmax.data(), DType::f32, {count, 2});
  Tensor alone = poisoned(DType::f32, {Hq, shard.stride}), beside = poisoned(DType::f32, {Hq, shard.stride});
  Tensor sums = poisoned(DType::i64, {count});
  const auto attention = [&](Tensor& a, const CandidateLists* lists) {
    window_attention(*gpu, heads, shard, logits.data<float>(), rest.data<float>(), RowReduction::ema, 0.3,
                     a.data<float>(), lists);
  };
  attention(alone, nullptr);
  const int64_t k = std::max<int64_t>(1, static_cast<int64_t>(part * static_cast<double>(L)));
  SelectRows input{logits.data<float>(), count, shard.stride, &shard.all, L};
  const SelectResult got = select_top_beside(*gpu, *self, input, k, sums.data<int64_t>(),
                                             [&](const CandidateLists* lists) { attention(beside, lists); });
  EXPECT_TRUE(same_bits(gpu->to_host<float>(alone), gpu->to_host<float>(beside))) << name;
  input.values = values.data();
  std::vector<int64_t> want_sums(static_cast<size_t>(count));
  const SelectResult want = select_top(cpu, *self, input, k, want_sums.data());
  EXPECT_EQ(gpu->to_host<uint32_t>(got.cuts), cpu.to_host<uint32_t>(want.cuts)) << name;
  EXPECT_EQ(gpu->to_host<int32_t>(got.tied), cpu.to_host<int32_t>(want.tied)) << name;
  EXPECT_EQ(gpu->to_host<int64_t>(sums), want_sums) << name;
}

TEST_F(SelectGpu, BesideTheAttention) {
  for (const auto& [L, W] : {std::pair<int64_t, int64_t>{300, 3}, {4097, 1}, {5003, 13}})
    for (double part : {0.0075, 0.1, 0.5, 0.999}) compare_beside(L, W, part);
}

TEST_F(SelectGpu, BesideTheAttentionOfLongRows) {
  for (const auto& [L, W] : {std::pair<int64_t, int64_t>{20011, 32}, {70001, 33}, {131072, 8}})
    for (double part : {0.0075, 0.1, 0.5}) compare_beside(L, W, part);
}

TEST_F(SelectGpu, NothingHere) {
  const std::vector<Segment> none;
  Tensor values = gpu->zeros(DType::f32, {2, 16}), cuts = gpu->zeros(DType::u32, {2, 2});
  const SelectRows empty{values.data<float>(), 2, 16, &none, 0};
  const TopRows top = top_set_rows(*gpu, empty, static_cast<const SelectCut*>(cuts.raw()), {5, 9}, 4);
  EXPECT_EQ(gpu->to_host<int32_t>(top.counts), (std::vector<int32_t>{4, 4}));
  EXPECT_EQ(gpu->to_host<int32_t>(top.rows), (std::vector<int32_t>{5, 6, 7, 8, 5, 6, 7, 8}));
  const std::vector<Segment> some = {{0, 0, 16}};
  EXPECT_EQ(select_top(*gpu, *self, {values.data<float>(), 0, 16, &some, 16}, 3).tied_rows(*gpu), 0);
}

TEST_F(SelectGpu, AdaptiveWindows) {
  std::mt19937_64 random(5);
  for (int64_t W : {2, 3, 32, 65})
    for (double beta : {0.7, 11.0, 200.0}) {
      const int64_t heads = 33, top = 97;
      std::vector<int64_t> sums;
      for (int64_t i = 0; i < heads * W; ++i)
        sums.push_back(i / W % 4 == 0 ? 12345 : static_cast<int64_t>(random() % (top * 131072)));
      const AdaptiveWindows want =
          adaptive_windows(cpu, Tensor::view(sums.data(), DType::i64, {heads * W}), W, top, 5, beta);
      const AdaptiveWindows got =
          adaptive_windows(*gpu, gpu->to_device(sums.data(), DType::i64, {heads * W}), W, top, 5, beta);
      EXPECT_EQ(gpu->to_host<int64_t>(got.kernel), cpu.to_host<int64_t>(want.kernel));
      EXPECT_EQ(gpu->to_host<int64_t>(got.shift), cpu.to_host<int64_t>(want.shift));
      EXPECT_EQ(gpu->to_host<int64_t>(got.windows), cpu.to_host<int64_t>(want.windows));
    }
}

TEST_F(SelectGpu, PoolingHasTheBitsOfTheCpu) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  const std::vector<PoolWindow> windows = {{0, 0},      {-1, 0},     {0, 1},        {-1, 1},       {-2, 1},
                                           {-10, 10},   {-3, 7},     {5, 9},        {-40, -37},    {-511, 511},
                                           {-512, 511}, {-512, 512}, {-1500, 2600}, {-9000, 9000}, {4000, 4031}};
  const int64_t rows = static_cast<int64_t>(windows.size());
  for (auto [L, ranks] : {std::pair<int64_t, int>{33, 1}, {1111, 1}, {5000, 2}, {9000, 3}})
    for (PoolEdge edge : {PoolEdge::replicate, PoolEdge::zero, PoolEdge::lowest}) {
      const SequencePartition partition(L, ranks);
      const int64_t P = L - 16;
      std::vector<float> scores;
      for (int64_t i = 0; i < rows * P; ++i)
        scores.push_back(i / P % 3 == 1 ? -std::abs(normal(random))
                         : i % 5 == 0   ? -0.0f
                                        : std::exp(4 * normal(random)));
      Tensor on_gpu = gpu->to_device(scores.data(), DType::f32, {rows, P});
      Tensor windows_gpu = gpu->to_device(windows.data(), DType::i64, {rows, 2});
      Tensor windows_cpu = cpu.to_device(windows.data(), DType::i64, {rows, 2});
      for (int rank = 0; rank < ranks; ++rank) {
        const LocalShard shard = make_local_shard(partition, rank, 16);
        Tensor want = cpu.empty(DType::f32, {rows, shard.stride}), got = poisoned(DType::f32, {rows, shard.stride});
        pool_scores(cpu, shard, scores.data(), rows, edge, windows_cpu, want.data<float>());
        pool_scores(*gpu, shard, on_gpu.data<float>(), rows, edge, windows_gpu, got.data<float>());
        const std::vector<float> pooled = gpu->to_host<float>(got);
        for (int64_t row = 0; row < rows; ++row)
          for (const Segment& s : shard.past)
            EXPECT_EQ(std::memcmp(want.data<float>() + row * shard.stride + s.local,
                                  pooled.data() + row * shard.stride + s.local, static_cast<size_t>(s.count) * 4),
                      0)
                << "L " << L << ", rank " << rank << ", row " << row << ", edge " << static_cast<int>(edge);
      }
    }
  const Tensor equal = equal_windows(*gpu, 300, {-3, 3});
  const auto host = gpu->to_host<int64_t>(equal);
  for (size_t i = 0; i < host.size(); ++i) ASSERT_EQ(host[i], i % 2 == 0 ? -3 : 3);
  EXPECT_EQ(host.size(), 600u);
}

// Every rank pools its own scores and the strips of its neighbours; each score that it must not read is NaN.
TEST_F(SelectGpu, PoolingAtTheEdgesHasTheBitsOfTheCpu) {
  std::mt19937 random(12);
  std::normal_distribution<float> normal;
  int64_t compared = 0;
  for (auto [L, ranks] : {std::pair<int64_t, int>{9000, 1}, {9000, 2}, {9017, 3}, {20000, 4}, {1000, 4}})
    for (int64_t reach : {1, 2, 7, 128, 131}) {
      const SequencePartition partition(L, ranks);
      const int64_t W = 16, P = L - W;
      ASSERT_EQ(edges_suffice(partition, P, reach), reach <= 7 || L > 1000) << L << ", reach " << reach;
      if (!edges_suffice(partition, P, reach)) continue;
      const std::vector<PoolWindow> windows = {{0, 0},          {-reach, -reach}, {reach, reach},
                                               {-reach, reach}, {-1, reach},      {-reach, 1}};
      const int64_t rows = static_cast<int64_t>(windows.size());
      std::vector<float> scores;
      for (int64_t i = 0; i < rows * P; ++i) scores.push_back(std::exp(4 * normal(random)));
      Tensor edges = poisoned(DType::f32, {ranks, rows, kEdgeStrips, reach});
      std::vector<Tensor> own;
      for (int rank = 0; rank < ranks; ++rank) {
        const LocalShard shard = make_local_shard(partition, rank, W);
        std::vector<float> local(static_cast<size_t>(rows * shard.stride), std::numeric_limits<float>::quiet_NaN());
        for (int64_t row = 0; row < rows; ++row)
          for (const Segment& s : shard.past)
            std::copy_n(scores.begin() + row * P + s.global, s.count, local.begin() + row * shard.stride + s.local);
        own.push_back(gpu->to_device(local.data(), DType::f32, {rows, shard.stride}));
        pack_edges(*gpu, shard, own.back().data<float>(), rows, reach, edges.rows(rank, 1).data<float>());
        Tensor strips = cpu.empty(DType::f32, {rows, kEdgeStrips, reach});
        pack_edges(cpu, shard, local.data(), rows, reach, strips.data<float>());
        EXPECT_EQ(gpu->to_host<float>(edges.rows(rank, 1)), cpu.to_host<float>(strips)) << "strips of rank " << rank;
      }
      Tensor windows_gpu = gpu->to_device(windows.data(), DType::i64, {rows, 2});
      Tensor windows_cpu = cpu.to_device(windows.data(), DType::i64, {rows, 2});
      for (int rank = 0; rank < ranks; ++rank)
        for (PoolEdge edge : {PoolEdge::replicate, PoolEdge::zero, PoolEdge::lowest}) {
          const LocalShard shard = make_local_shard(partition, rank, W);
          Tensor want = cpu.empty(DType::f32, {rows, shard.stride}), got = poisoned(DType::f32, {rows, shard.stride});
          pool_scores(cpu, shard, scores.data(), rows, edge, windows_cpu, want.data<float>());
          const PastScores near{own[rank], false, edges, reach, edge_neighbours(partition, shard)};
          pool_scores(*gpu, shard, near, rows, edge, windows_gpu, got.data<float>());
          const std::vector<float> pooled = gpu->to_host<float>(got);
          for (int64_t row = 0; row < rows; ++row)
            for (const Segment& s : shard.past)
              for (int64_t i = s.local; i < s.local + s.count; ++i, ++compared)
                ASSERT_EQ(std::memcmp(want.data<float>() + row * shard.stride + i, &pooled[row * shard.stride + i], 4),
                          0)
                    << "L " << L << ", rank " << rank << " of " << ranks << ", reach " << reach << ", row " << row
                    << ", edge " << static_cast<int>(edge) << ", local index " << i << " of " << s.local << " + "
                    << s.count;
        }
    }
  EXPECT_GT(compared, 100000);
}

}  // namespace
}  // namespace restkv::testing
