// What decoding on several GPU ranks has to give, whatever moves the data between them: run by every rank of
// decode_ranks_gpu_test.cc. (Ranks that are threads and share a GPU cannot: a kernel that waits for another rank holds
// up the loading of that rank's kernels.)
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "model/decode_batch_device.h"
#include "model/weights/random_source.h"
#include "tests/model/small_models.h"
#include "tests/tolerances.h"

namespace restkv::testing {

struct DecodeRank {
  Context& ctx;
  Communicator& control;
  std::function<ProcessGrid(int sequence, int tensor)> make_grid;
  bool graphs = false;  ///< whether the grid's collectives can be captured
};

inline ModelConfig ranks_config(int64_t Hq, int64_t Hkv, int64_t d) {
  ModelConfig config = small_config(Hq, Hkv, d);
  // 44 units of 8: no even split over 3 ranks; and few blocks, since ranks that share a GPU wait for each other with
  // their next kernel's blocks on it.
  config.intermediate = 352;
  config.vocab = d == 128 ? 1000 : 1003;  // equal slices, and others
  return config;
}

inline std::vector<int32_t> ranks_prompt(int64_t n, uint64_t seed = 99) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(mix64(static_cast<uint64_t>(i) + seed) % 1000));
  return tokens;
}

/// One rank with all weights, and with the caches that the ranks' shares are cut from.
struct WholeModel {
  WholeModel(Context& ctx, const ModelConfig& config_, Granularity granularity) : config(config_) {
    cache.policy = "full";
    cache.granularity = granularity;
    model = std::make_unique<Transformer>(ctx, grid, config, source(), cache, TransformerOptions{});
  }
  RandomSource source() const { return {config, 17, 1.5}; }
  Sequence prefill(int64_t n, uint64_t seed = 99) {
    PrefillOptions options;
    options.max_new_tokens = 0;
    return model->prefill(ranks_prompt(n, seed), options);
  }

  ModelConfig config;
  CacheConfig cache;
  ProcessGrid grid{make_self_communicator(), 1, 1};
  std::unique_ptr<Transformer> model;
};

/// Whether this sequence rank holds row i of a head: ragged shares, and of head 0 nothing lies on the last rank.
inline bool holds_row(const ProcessGrid& grid, int64_t head, int64_t i) {
  const int64_t ranks = head == 0 && grid.sequence_size() > 1 ? grid.sequence_size() - 1 : grid.sequence_size();
  return static_cast<int64_t>(mix64(static_cast<uint64_t>(1000 * head + i)) % static_cast<uint64_t>(ranks)) ==
         grid.sequence_rank();
}

/// The part of `whole` (all heads, the same number of rows each) that a rank of `model` decodes with.
inline Sequence share_of(const Sequence& whole, Transformer& model, int64_t reserve) {
  Context& ctx = model.context();
  const ModelConfig& config = model.config();
  const ShardPlan& plan = model.plan();
  const bool per_query = model.cache_config().granularity == Granularity::query_head;
  const Range heads = per_query ? plan.decode.heads.local.q : plan.decode.heads.local.kv;
  const int64_t d = config.d, n = whole.cache.length(0, 0), all = whole.cache.heads();
  Sequence share{KvCache(ctx, config.layers, heads.size(), d, DType::bf16),
                 whole.prompt_tokens,
                 whole.length,
                 {},
                 whole.logits,
                 {}};
  std::vector<int32_t> positions(static_cast<size_t>(n));
  std::iota(positions.begin(), positions.end(), 0);
  const Tensor at = ctx.to_device(positions.data(), DType::i32, {n});
  for (int64_t layer = 0; layer < config.layers && !heads.empty(); ++layer) {
    const DeviceKvLayer from = whole.cache.device_layer(layer);
    std::vector<int64_t> first(static_cast<size_t>(all)), source;
    ctx.to_host(from.first_row, first.data(), all * size_of(DType::i64));
    std::vector<std::vector<int32_t>> rows(static_cast<size_t>(heads.size()));
    std::vector<bf16> column(static_cast<size_t>(n * d));
    std::vector<bf16> k(static_cast<size_t>(n * heads.size() * d)), v(k.size());
    for (int64_t h = 0; h < heads.size(); ++h) {
      source.push_back(h);
      for (auto [data, to] : {std::pair(from.k, &k), std::pair(from.v, &v)}) {
        ctx.to_host(static_cast<const bf16*>(data) + first[heads.begin + h] * d, column.data(), n * d * 2);
        for (int64_t i = 0; i < n; ++i) std::copy_n(&column[i * d], d, &(*to)[(i * heads.size() + h) * d]);
      }
      for (int64_t i = 0; i < n; ++i)
        if (plan.mode == DecodeMode::tensor || holds_row(model.grid(), heads.begin + h, i))
          rows[h].push_back(static_cast<int32_t>(i));
    }
    const Tensor k_gpu = ctx.to_device(k.data(), DType::bf16, {n, heads.size() * d}),
                 v_gpu = ctx.to_device(v.data(), DType::bf16, {n, heads.size() * d});
    share.cache.store(layer, MatrixView(k_gpu), MatrixView(v_gpu), heads.size(), source, at,
                      KeptRows::from_host(ctx, rows), reserve);
  }
  return share;
}

inline double logits_difference(const std::vector<float>& got, const std::vector<float>& want) {
  double scale = 0.0, worst = 0.0;
  if (got.size() != want.size()) return INFINITY;
  for (size_t i = 0; i < want.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    scale = std::max(scale, std::abs(static_cast<double>(want[i])));
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
  }
  return worst / scale;
}

/// Whether all ranks have the same bits.
inline bool equal_on_all_ranks(Communicator& control, const std::vector<float>& x) {
  uint64_t hash = x.size();
  for (float value : x) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    hash = mix64(hash ^ bits);
  }
  uint64_t low = hash, high = hash;
  control.all_reduce(&low, 1, DType::u64, ReduceOp::min);
  control.all_reduce(&high, 1, DType::u64, ReduceOp::max);
  return low == high;
}

inline std::unique_ptr<Transformer> make_ranks_model(DecodeRank& rank, const ProcessGrid& grid, const WholeModel& whole,
                                                     DecodeMode mode, bool peer_memory) {
  TransformerOptions options;
  options.decode = mode;
  options.peer_memory = peer_memory;
  return std::make_unique<Transformer>(rank.ctx, grid, whole.config, whole.source(), whole.cache, options);
}

/// Logits of 24 steps against one rank's; caches grow several times.
inline void expect_same_logits(Transformer& model, WholeModel& whole, Communicator& control) {
  double sum = 0.0;
  int rows = 0;
  for (int64_t n : {1, 90, 700}) {
    Sequence want = whole.prefill(n), got = share_of(want, model, 0);
    for (int step = 0; step < 24; ++step) {
      const int32_t token = sample(want.logits, {}, 0, static_cast<uint64_t>(step));
      whole.model->decode_step(want, token);
      model.decode_step(got, token);
      const double difference = logits_difference(got.logits, want.logits);
      EXPECT_LT(difference, kLogitsBf16Row) << "prompt " << n << ", step " << step;
      EXPECT_TRUE(equal_on_all_ranks(control, got.logits)) << "prompt " << n << ", step " << step;
      sum += difference;
      ++rows;
    }
    EXPECT_EQ(got.length, n + 24);
  }
  if (control.rank() == 0) printf("  %d rows, logits differ by %.4f on average\n", rows, sum / rows);
  EXPECT_LT(sum / rows, kLogitsBf16);
}

/// The same tokens, bit for bit, with graphs as without, at several numbers of members.
inline void expect_graph_equals_eager(Transformer& model, WholeModel& whole) {
  for (size_t members : {1, 3, 17}) {
    std::vector<Sequence> a, b;
    for (size_t i = 0; i < members; ++i) {
      const Sequence prompt = whole.prefill(40 + 35 * static_cast<int64_t>(i), 7 + i);
      a.push_back(share_of(prompt, model, 0));
      b.push_back(share_of(prompt, model, 0));
    }
    std::vector<DecodeBatch::Member> in_a, in_b;
    for (size_t i = 0; i < members; ++i) {
      const SamplingConfig sampling = i % 2 == 0 ? SamplingConfig{} : SamplingConfig{0.9, 50, 0.95, 3};
      in_a.push_back({&a[i], sampling, i});
      in_b.push_back({&b[i], sampling, i});
    }
    DeviceDecodeBatch eager(model, in_a), graph(model, in_b);
    for (int step = 0; step < 40; ++step) {
      const std::vector<int32_t> want(eager.tokens().begin(), eager.tokens().end()),
          got(graph.tokens().begin(), graph.tokens().end());
      ASSERT_EQ(got, want) << members << " members, step " << step;
      eager.step_eagerly(want);
      graph.step(got);
      for (size_t i = 0; i < members; i += 5)
        ASSERT_EQ(graph.logits(static_cast<int64_t>(i)), eager.logits(static_cast<int64_t>(i)))
            << members << " members, step " << step << ", member " << i;
    }
  }
}

/// Members of all lengths that leave one after the other get what they would get alone.
inline void expect_batches_equal_single(Transformer& model, WholeModel& whole, bool graphs) {
  constexpr int count = 9;
  const SamplingConfig sampling{1.5, 0, 1.0, 11};
  auto step = [&](DeviceDecodeBatch& batch, const std::vector<int32_t>& tokens) {
    graphs ? batch.step(tokens) : batch.step_eagerly(tokens);
  };
  std::vector<Sequence> together;
  std::vector<std::vector<int32_t>> want(static_cast<size_t>(count)), got(want.size());
  for (int i = 0; i < count; ++i) {
    const Sequence prompt = whole.prefill(20 + 60 * i, 1000 + static_cast<uint64_t>(i));
    Sequence alone = share_of(prompt, model, 2);
    together.push_back(share_of(prompt, model, 40));
    DeviceDecodeBatch batch(model, {{&alone, sampling, 5}});
    for (int s = 0; s < 3 + 2 * i; ++s) {
      want[i].push_back(batch.tokens()[0]);
      step(batch, {want[i].back()});
    }
  }
  std::vector<DecodeBatch::Member> members;
  for (Sequence& s : together) members.push_back({&s, sampling, 5});
  DeviceDecodeBatch batch(model, members);
  std::vector<int> index(want.size());
  std::iota(index.begin(), index.end(), 0);
  while (!index.empty()) {
    std::vector<int32_t> tokens(batch.tokens().begin(), batch.tokens().end()), next;
    for (int64_t m = static_cast<int64_t>(index.size()) - 1; m >= 0; --m) {
      std::vector<int32_t>& mine = got[static_cast<size_t>(index[m])];
      mine.push_back(tokens[m]);
      if (mine.size() == want[static_cast<size_t>(index[m])].size()) {
        batch.leave(m);
        index.erase(index.begin() + m);
      } else {
        next.insert(next.begin(), tokens[m]);
      }
    }
    if (!index.empty()) step(batch, next);
  }
  for (int i = 0; i < count; ++i) EXPECT_EQ(got[i], want[i]) << "member " << i;
}

/// As many members as there may be, fed with the tokens that each of them draws alone: their logits are near those of
/// the member alone (not equal: above kStreamedBatch cuBLASLt multiplies), and members that leave change nothing.
inline void expect_largest_batch_near_single(Transformer& model, WholeModel& whole, bool graphs) {
  constexpr int kCount = static_cast<int>(kMaxDecodeBatch), kSteps = 6;
  auto step = [&](DeviceDecodeBatch& batch, const std::vector<int32_t>& tokens) {
    graphs ? batch.step(tokens) : batch.step_eagerly(tokens);
  };
  std::vector<Sequence> together;
  std::vector<std::vector<int32_t>> tokens(kCount);
  std::vector<std::vector<std::vector<float>>> want(kCount);  // logits by member and step
  for (int i = 0; i < kCount; ++i) {
    const Sequence prompt = whole.prefill(20 + 5 * i, 1000 + static_cast<uint64_t>(i));
    Sequence alone = share_of(prompt, model, kSteps);
    together.push_back(share_of(prompt, model, kSteps));
    DeviceDecodeBatch batch(model, {{&alone, {}, 5}});
    for (int s = 0; s < kSteps; ++s) {
      tokens[i].push_back(batch.tokens()[0]);
      step(batch, {tokens[i].back()});
      want[i].push_back(batch.logits(0));
    }
  }
  std::vector<DecodeBatch::Member> members;
  for (Sequence& s : together) members.push_back({&s, {}, 5});
  DeviceDecodeBatch batch(model, members);
  std::vector<int> index(kCount);
  std::iota(index.begin(), index.end(), 0);
  for (int s = 0; s < kSteps; ++s) {
    if (s == 3)  // half of them leave; what stays is still more than kStreamedBatch
      for (int m = kCount - 1; m >= 0; m -= 2) {
        batch.leave(m);
        index.erase(index.begin() + m);
      }
    std::vector<int32_t> next;
    for (int i : index) next.push_back(tokens[i][s]);
    step(batch, next);
    for (size_t m = 0; m < index.size(); ++m) {
      const std::vector<float> got = batch.logits(static_cast<int64_t>(m)), &expected = want[index[m]][s];
      float largest = 0.0f, error = 0.0f;
      for (size_t v = 0; v < got.size(); ++v) {
        largest = std::max(largest, std::abs(expected[v]));
        error = std::max(error, std::abs(got[v] - expected[v]));
      }
      ASSERT_LT(error, kLogitsBf16Row * largest) << "member " << index[m] << ", step " << s;
    }
  }
}

/// Every check on one layout.
inline void check_decode_layout(DecodeRank& rank, const ProcessGrid& grid, WholeModel& whole, DecodeMode mode) {
  const std::string name = fmt::format("{} x {}, mode {}, {} query heads, {}", grid.sequence_size(), grid.tensor_size(),
                                       mode == DecodeMode::tensor ? "tensor" : "sequence", whole.config.Hq,
                                       whole.cache.granularity == Granularity::query_head ? "query_head" : "kv_head");
  std::vector<float> last[2];
  for (bool peer_memory : {true, false}) {
    auto model = make_ranks_model(rank, grid, whole, mode, peer_memory);
    SCOPED_TRACE(name + ", " + model->decode_groups().describe());
    if (grid.is_root()) printf("%s: %s\n", name.c_str(), model->decode_groups().describe().c_str());
    expect_same_logits(*model, whole, rank.control);
    if (rank.graphs) expect_graph_equals_eager(*model, whole);
    // A collective's order of sums may follow the size of a message, ours does not.
    if (peer_memory || grid.size() == 2) expect_batches_equal_single(*model, whole, rank.graphs);
    Sequence sequence = share_of(whole.prefill(300), *model, 8);
    for (int32_t token : {1, 2, 3}) model->decode_step(sequence, token);
    last[peer_memory ? 0 : 1] = sequence.logits;
  }
  // Two terms have one sum, whoever adds them.
  if (grid.size() == 2) {
    EXPECT_EQ(last[0], last[1]) << name << ": over peer memory and by collectives";
  }
}

}  // namespace restkv::testing
