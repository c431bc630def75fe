// Exchanges over peer memory against plain sums, on the ranks that mpirun started: one GPU each, or several ranks on
// one (slower: they take turns). Skips without a GPU.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "model/ops/attention_decode.h"
#include "model/ops/decode_exchange.h"
#include "tests/mpi_world.h"

namespace restkv {
namespace {

float random_value(uint64_t seed, int64_t i) {
  return static_cast<float>(4.0 * unit_interval(mix64(mix64(seed) + static_cast<uint64_t>(i))) - 2.0);
}

std::vector<float> random_values(uint64_t seed, int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) x[i] = random_value(seed, i);
  return x;
}

class DecodeExchange : public ::testing::Test {
 protected:
  void SetUp() override {
    const int count = GpuRuntime::count();
    if (count == 0) GTEST_SKIP() << "no GPU";
    control = testing::mpi_runtime().world(300);
    Context::Options options{Device::gpu, 1};
    options.device_index = testing::mpi_runtime().local_rank() % count;
    gpu = std::make_unique<Context>(options);
    shared = testing::mpi_runtime().local_size() > count;
    peers = map(kMaxDecodeBatch * 4096);
  }
  void TearDown() override {
    peers.reset();
    if (control != nullptr) control->barrier();
  }

  std::unique_ptr<PeerMemory> map(int64_t words, double timeout_s = 60.0) {
    std::vector<int> group;
    for (int r = 0; r < control->size(); ++r) group.push_back(r);
    std::string reason;
    auto memory = PeerMemory::create(*gpu, *control, group, {words, timeout_s}, &reason);
    EXPECT_NE(memory, nullptr) << reason;
    return memory;
  }
  int rank() const { return control->rank(); }
  int size() const { return control->size(); }
  // Every rank somewhere else in time.
  void dawdle(uint64_t round) const {
    const uint64_t draw = mix64(mix64(round) + static_cast<uint64_t>(rank()));
    if (draw % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(draw / 4 % 300));
  }
  // The sum of all ranks' terms in rank order.
  std::vector<float> sum_of_terms(uint64_t seed, int64_t n) const {
    std::vector<float> sum = random_values(seed, n);
    for (int r = 1; r < size(); ++r) {
      const std::vector<float> part = random_values(seed + static_cast<uint64_t>(r), n);
      for (int64_t i = 0; i < n; ++i) sum[i] += part[i];
    }
    return sum;
  }
  Tensor upload(const std::vector<float>& x, Shape shape) {
    return gpu->to_device(x.data(), DType::f32, std::move(shape));
  }
  template <class T>
  void expect_same(const Tensor& got, const Tensor& want, const std::string& what) {
    std::vector<T> a(static_cast<size_t>(got.numel())), b(a.size());
    gpu->to_host(got.raw(), a.data(), got.bytes());
    gpu->to_host(want.raw(), b.data(), want.bytes());
    ASSERT_EQ(a.size(), b.size());
    size_t different = 0, first = 0;
    for (size_t i = a.size(); i-- > 0;)
      if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) ++different, first = i;
    EXPECT_EQ(different, 0u) << what << ": rank " << rank() << " of " << size() << ", the first at " << first;
  }

  std::unique_ptr<Communicator> control;
  std::unique_ptr<Context> gpu;
  std::unique_ptr<PeerMemory> peers;
  bool shared = false;
};

// x, the weighted x and the sums of squares, bit for bit those of a plain sum and add_to_stream.
TEST_F(DecodeExchange, SumEqualsPlainSum) {
  uint64_t seed = 1;
  for (int64_t H : {4096, 2056, 1000, 24, 7, 1})
    for (int64_t batch : {1, 2, 3, 8, 32, 64})
      for (bool replace : {false, true}) {
        seed += 100;
        const std::string what = fmt::format("H {}, batch {}, replace {}", H, batch, replace);
        const Tensor norm = upload(random_values(seed + 50, H), {H});
        const std::vector<float> x = random_values(seed + 51, batch * H);
        DecodeStream got = make_decode_stream(*gpu, batch, H), want = make_decode_stream(*gpu, batch, H);
        want.x = upload(replace ? std::vector<float>(x.size(), 0.0f) : x, {batch, H});
        add_to_stream(*gpu, upload(sum_of_terms(seed, batch * H), {batch, H}), norm, want);
        const Tensor terms = upload(random_values(seed + static_cast<uint64_t>(rank()), batch * H), {batch, H});
        got.x = replace ? terms : upload(x, {batch, H});  // with `replace` in place
        dawdle(seed);
        sum_into_stream(*gpu, peers->view(), terms, norm, got, replace);
        gpu->synchronize();
        peers->check(what.c_str());
        expect_same<float>(got.x, want.x, what + ", x");
        expect_same<uint16_t>(got.weighted, want.weighted, what + ", weighted");
        expect_same<float>(got.square_sums, want.square_sums, what + ", square sums");
      }
}

// Rounds follow each other without a word between the hosts; ranks are late at random, between launches and (in the
// graph) between kernels. A word that is read too early or overwritten too soon shows in x.
TEST_F(DecodeExchange, ManyRounds) {
  constexpr int kBuffers = 8;
  const int launches = shared ? 4 : 20, per_graph = 64, eager = shared ? 100 : 1000;
  for (int64_t batch : {1, 5, 64}) {
    const int64_t H = 1024, n = batch * H;
    const Tensor norm = upload(random_values(3, H), {H});
    const Tensor sleep = gpu->empty(DType::u8, {int64_t{64} << 20});
    std::vector<Tensor> terms;
    std::vector<std::vector<float>> sums;
    for (uint64_t i = 0; i < kBuffers; ++i) {
      terms.push_back(upload(random_values(1000 * i + static_cast<uint64_t>(rank()), n), {batch, H}));
      sums.push_back(sum_of_terms(1000 * i, n));
    }
    std::vector<float> want(static_cast<size_t>(n), 0.0f);
    DecodeStream stream = make_decode_stream(*gpu, batch, H);
    gpu->fill_zero(stream.x.raw(), stream.x.bytes());
    auto expect = [&](int rounds) {
      for (int round = 0; round < rounds; ++round)
        for (int64_t i = 0; i < n; ++i) want[i] += sums[static_cast<size_t>(round % kBuffers)][i];
    };
    auto enqueue = [&](int round) {
      const uint64_t draw = mix64(mix64(static_cast<uint64_t>(round)) + static_cast<uint64_t>(rank()));
      if (draw % 8 == 0) gpu->fill_zero(sleep.raw(), static_cast<int64_t>(draw / 8 % 64) << 20);
      sum_into_stream(*gpu, peers->view(), terms[static_cast<size_t>(round % kBuffers)], norm, stream);
    };
    for (int round = 0; round < eager; ++round) {
      dawdle(static_cast<uint64_t>(round));
      enqueue(round);
    }
    expect(eager);
    const auto graph = gpu->gpu()->capture([&] {
      for (int round = 0; round < per_graph; ++round) enqueue(round);
    });
    for (int launch = 0; launch < launches; ++launch) {
      dawdle(static_cast<uint64_t>(launch));
      gpu->gpu()->launch(graph.get());
      expect(per_graph);
    }
    gpu->synchronize();
    peers->check("many rounds");
    expect_same<float>(stream.x, upload(want, {batch, H}), fmt::format("batch {}", batch));
  }
}

// Partial attention of all ranks, heads without rows included, against the merge of what an all-gather would bring.
TEST_F(DecodeExchange, MergeEqualsGatheredMerge) {
  for (int64_t d : {64, 128, 256})
    for (int64_t rows : {1, 32, 33, 32 * 8}) {
      const uint64_t seed = static_cast<uint64_t>(d * 1000 + rows);
      if (partial_exchange_words(rows, d) > peers->view().words) continue;
      const int64_t count = rows * (d + 1);
      std::vector<float> all;
      for (int r = 0; r < size(); ++r) {
        std::vector<float> part = random_values(seed + static_cast<uint64_t>(r), count);
        for (int64_t row = 0; row < rows; ++row)
          if ((row + r) % 3 == 0 || row % 7 == 6) {  // this rank has none; no rank has any
            part[static_cast<size_t>(rows * d + row)] = -INFINITY;
            std::fill_n(part.begin() + row * d, d, 0.0f);
          }
        all.insert(all.end(), part.begin(), part.end());
      }
      const Tensor gathered = upload(all, {size() * count});
      const Tensor want = gpu->empty(DType::bf16, {rows, d}), got = gpu->empty(DType::bf16, {rows, d});
      const Tensor want_lse = gpu->empty(DType::f32, {rows}), got_lse = gpu->empty(DType::f32, {rows});
      PartialMerge merge;
      merge.out = gathered.data<float>();
      merge.lse = merge.out + rows * d;
      merge.parts = size();
      merge.out_stride = merge.lse_stride = count;
      merge.rows = rows;
      merge.d = d;
      merge.merged_bf16 = want.raw();
      merge.merged_lse = want_lse.data<float>();
      merge_partial_attention(*gpu, merge);
      const float* own = gathered.data<float>() + rank() * count;
      dawdle(seed);
      exchange_and_merge(*gpu, peers->view(), {own, own + rows * d, rows, d, got.raw(), got_lse.data<float>()});
      gpu->synchronize();
      peers->check("merge");
      expect_same<uint16_t>(got, want, fmt::format("d {}, {} rows", d, rows));
      expect_same<float>(got_lse, want_lse, fmt::format("log-sum-exps, d {}, {} rows", d, rows));
    }
}

// A rank that never comes is an error that names it, not a hang.
TEST_F(DecodeExchange, AnAbsentRankIsNamed) {
  if (size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  auto memory = map(1024, 1.0);
  DecodeStream stream = make_decode_stream(*gpu, 1, 1024);
  const Tensor terms = gpu->zeros(DType::f32, {1, 1024}), norm = gpu->zeros(DType::f32, {1024});
  gpu->fill_zero(stream.x.raw(), stream.x.bytes());
  if (rank() != 0) {
    for (int i = 0; i < 50; ++i) sum_into_stream(*gpu, memory->view(), terms, norm, stream);
    const auto begin = std::chrono::steady_clock::now();
    gpu->synchronize();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << "waits after the first fault";
    try {
      memory->check("a test");
      ADD_FAILURE() << "no error";
    } catch (const RuntimeFailure& e) {
      EXPECT_NE(std::string(e.what()).find("rank 0 sent nothing for 1 s"), std::string::npos) << e.what();
    }
  }
  control->barrier();
}

// Slices of odd and even widths, a rank without any, in place and from memory of their own.
TEST_F(DecodeExchange, ColumnsEqualTheWhole) {
  uint64_t seed = 5;
  for (int64_t cols : {1003, 1000, 40000})
    for (int64_t rows : {1, 2, 3})
      for (bool uneven : {false, true})
        for (bool in_place : {false, true}) {
          std::vector<Range> columns;
          int64_t next = 0;
          for (int r = 0; r < size(); ++r) {
            const int64_t width = split_even(cols, size(), r).size();
            columns.push_back({next, uneven && r == 0 && size() > 1 ? next : next + width});
            next = columns.back().end;
          }
          const int64_t all = next;
          if (column_exchange_words(columns, rows) > peers->view().words) continue;
          const std::vector<float> want = random_values(++seed, rows * all);
          const Range mine = columns[static_cast<size_t>(rank())];
          std::vector<float> start(want.size(), NAN), slice;
          for (int64_t row = 0; row < rows; ++row)
            for (int64_t c = mine.begin; c < mine.end; ++c) {
              slice.push_back(want[row * all + c]);
              if (in_place) start[row * all + c] = want[row * all + c];
            }
          const Tensor out = upload(start, {rows, all}), apart = upload(slice, {rows * mine.size()});
          MatrixView own(apart.raw(), DType::f32, rows, mine.size(), mine.size());
          if (in_place) own = MatrixView(out).block(0, rows, mine.begin, mine.size());
          dawdle(seed);
          exchange_columns(*gpu, peers->view(), {own, columns, out.data<float>(), all});
          gpu->synchronize();
          peers->check("columns");
          expect_same<float>(out, upload(want, {rows, all}),
                             fmt::format("{} x {}, uneven {}, in place {}", rows, cols, uneven, in_place));
        }
}

TEST_F(DecodeExchange, JoinsColumns) {
  const std::vector<Range> columns = {{500, 1003}, {0, 1}, {1, 500}, {500, 500}};
  const int64_t rows = 5, cols = 1003;
  const std::vector<float> parts = random_values(9, rows * cols);
  std::vector<float> want(parts.size());
  Context cpu{Context::Options{Device::cpu, 1}};
  join_columns(cpu, parts.data(), columns, rows, want.data(), cols);
  EXPECT_EQ(want[2 * cols + 500], parts[2 * 503]);
  EXPECT_EQ(want[3 * cols], parts[5 * 503 + 3]);
  EXPECT_EQ(want[4 * cols + 1], parts[5 * 504 + 4 * 499]);
  const Tensor out = gpu->empty(DType::f32, {rows, cols});
  join_columns(*gpu, upload(parts, {rows * cols}).data<float>(), columns, rows, out.data<float>(), cols);
  expect_same<float>(out, upload(want, {rows, cols}), "joined columns");
}

}  // namespace
}  // namespace restkv
