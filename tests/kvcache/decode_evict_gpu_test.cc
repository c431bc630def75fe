// The rules of eviction while decoding on a GPU against the CPU: the same queries, keys and values, token by token.
// Sequences of a batch differ in everything. Skips when there is no GPU.
#include <cmath>
#include <iostream>
#include <random>

#include "dist/base/error.h"
#include "kvcache/decode/decode_evictor.h"
#include "tests/gpu_test.h"

namespace restkv::testing {
namespace {

constexpr int64_t kLayers = 3;

struct RuleCase {
  std::string policy;
  int64_t every = 1, trigger = 0, target = 0;
  int64_t Hq = 8, Hkv = 2, d = 64;
  Granularity granularity = Granularity::kv_head;
  Allocation allocation = Allocation::uniform;
  int64_t budget = 90, window = 16;
  Pooling pooling = Pooling::adaptive;
  int64_t sinks = 4;
};

std::string name_of_case(const RuleCase& c) {
  return fmt::format("{}, every {}, {}/{} heads of {}, {}, allocation {}, trigger {}, target {}", c.policy, c.every,
                     c.Hq, c.Hkv, c.d, c.granularity == Granularity::query_head ? "query_head" : "kv_head",
                     static_cast<int>(c.allocation), c.trigger, c.target);
}

CacheConfig config_of(const RuleCase& c) {
  CacheConfig config;
  config.policy = c.policy;
  config.budget.tokens = c.budget;
  config.window = c.window;
  config.granularity = c.granularity;
  config.allocation = c.allocation;
  config.pooling = c.policy == "snapkv" && c.pooling == Pooling::adaptive ? Pooling::average : c.pooling;
  config.beta = 20.0;
  config.sinks = c.sinks;
  config.seed = 3;
  config.decode = {c.every, c.trigger, c.target};
  return config;
}

// Values that bf16 holds.
std::vector<float> normal_values(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = to_float(to_bf16(normal(random)));
  return values;
}

std::vector<bf16> narrow(const std::vector<float>& values) {
  std::vector<bf16> half;
  for (float x : values) half.push_back(to_bf16(x));
  return half;
}

/// One sequence on both devices.
struct Twin {
  KvCache cpu, gpu;
  DecodeEvictState on_cpu, on_gpu;
  int64_t L = 0, length = 0;
};

class DecodeEvictGpu : public GpuTest {
 protected:
  void run(const RuleCase& c, const std::vector<int64_t>& prompts, bool ragged, int steps);
  Twin make_twin(const RuleCase& c, int64_t L, bool ragged, std::mt19937& random);
  struct LayerToken {
    std::vector<float> q, lse;
  };
  static double scale_of(const RuleCase& c) { return 1.0 / std::sqrt(static_cast<double>(c.d)); }
  LayerToken append(const RuleCase& c, Twin& twin, int64_t layer, std::mt19937& random);
  void step(const RuleCase& c, std::vector<Twin>& twins, int index, std::mt19937& random);
  void compare(const RuleCase& c, Twin& twin, int index);
  void copy_to_gpu(Twin& twin, int64_t layer, int64_t head, int64_t d);

  DecodeLayout layout(const RuleCase& c) {
    DecodeLayout layout;
    layout.rows = layout.heads = self.get();
    layout.resident = {{0, c.Hq}, {0, c.Hkv}};
    layout.ranges = {layout.resident};
    layout.mine = {c.Hq, c.Hkv, c.d, layout.resident};
    return layout;
  }
  int64_t cache_heads(const RuleCase& c) const { return c.granularity == Granularity::query_head ? c.Hq : c.Hkv; }
  template <class T>
  void put(const T* to, const std::vector<T>& values) {
    gpu->gpu()->to_device(const_cast<T*>(to), values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  }

  Context cpu{Context::Options{Device::cpu, 1}};
  std::unique_ptr<Communicator> self = make_self_communicator();
  std::unique_ptr<DecodeEvictor> cpu_evictor, gpu_evictor;
  std::vector<float> factors;
  Tensor factors_gpu, caches, records, positions, q_gpu, lse_gpu;
  int64_t decisions = 0, differ = 0, rows = 0, rows_differ = 0;
};

// A prompt whose rows all stay, or of which heads keep different numbers of rows.
Twin DecodeEvictGpu::make_twin(const RuleCase& c, int64_t L, bool ragged, std::mt19937& random) {
  const int64_t heads = cache_heads(c);
  Twin twin{
      KvCache(cpu, kLayers, heads, c.d, DType::f32), KvCache(*gpu, kLayers, heads, c.d, DType::bf16), {}, {}, L, L};
  if (gpu_evictor->needs_column_sums()) twin.gpu.keep_sums();
  std::vector<int64_t> source, position, head_index;
  for (int64_t h = 0; h < heads; ++h) source.push_back(h * c.Hkv / heads), head_index.push_back(h);
  for (int64_t i = 0; i < L; ++i) position.push_back(i);
  std::vector<std::vector<int64_t>> kept_counts;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const std::vector<float> k = normal_values(random, L * c.Hkv * c.d), v = normal_values(random, L * c.Hkv * c.d);
    const std::vector<float> q = normal_values(random, std::min(L, c.window) * c.Hq * c.d);
    std::vector<int64_t> sums;
    for (int64_t i = 0; i < c.Hq * L; ++i) sums.push_back(static_cast<int64_t>(random() % 1000) << 30);
    KeptRows kept = KeptRows::everything(L, head_index), kept_gpu = kept;
    kept_counts.emplace_back(static_cast<size_t>(heads), L);
    if (ragged) {
      std::vector<std::vector<int32_t>> rows_of(static_cast<size_t>(heads));
      int64_t together = 0;
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < L; ++i)
          if (i >= L - c.window || static_cast<int64_t>(random() % 100) < 20 + 10 * (h % 4))
            rows_of[h].push_back(static_cast<int32_t>(i));
        kept_counts.back()[h] = static_cast<int64_t>(rows_of[h].size());
        together += kept_counts.back()[h];
      }
      kept = KeptRows::from_host(cpu, rows_of, head_index);
      kept_gpu = KeptRows::from_host(*gpu, rows_of, head_index);
      kept_gpu.known = -1;
      kept_gpu.together = together;
    }
    const std::vector<bf16> k_half = narrow(k), v_half = narrow(v), q_half = narrow(q);
    twin.cpu.store(layer, MatrixView(k.data(), L, c.Hkv * c.d), MatrixView(v.data(), L, c.Hkv * c.d), c.Hkv, source,
                   cpu.to_device(position.data(), DType::i64, {L}), kept, 1);
    const Tensor k_there = gpu->to_device(k_half.data(), DType::bf16, {L, c.Hkv * c.d}),
                 v_there = gpu->to_device(v_half.data(), DType::bf16, {L, c.Hkv * c.d}),
                 q_there = gpu->to_device(q_half.data(), DType::bf16, {std::min(L, c.window), c.Hq * c.d}),
                 sums_there = gpu->to_device(sums.data(), DType::i64, {c.Hq, L});
    twin.gpu.store(layer, MatrixView(k_there), MatrixView(v_there), c.Hkv, source,
                   gpu->to_device(position.data(), DType::i64, {L}), kept_gpu,
                   gpu_evictor->most_growth(L, layer, ragged));
    cpu_evictor->begin_layer(twin.on_cpu, {MatrixView(q.data(), std::min(L, c.window), c.Hq * c.d), sums.data()}, L,
                             twin.cpu);
    gpu_evictor->begin_layer(twin.on_gpu, {MatrixView(q_there), sums_there.data<int64_t>()}, L, twin.gpu);
  }
  twin.gpu.refresh_lengths();
  cpu_evictor->begin(twin.on_cpu, L, ragged, kept_counts);
  gpu_evictor->begin(twin.on_gpu, L, ragged, kept_counts);
  return twin;
}

// A token's row in every head of a layer on both devices, its queries, and their log-sum-exp over the rows.
DecodeEvictGpu::LayerToken DecodeEvictGpu::append(const RuleCase& c, Twin& twin, int64_t layer, std::mt19937& random) {
  const int64_t heads = cache_heads(c), group = c.Hq / heads;
  const DeviceKvLayer there = twin.gpu.device_layer(layer);
  std::vector<int64_t> first(static_cast<size_t>(heads)), source;
  gpu->to_host(there.first_row, first.data(), heads * 8);
  const std::vector<float> k = normal_values(random, c.Hkv * c.d), v = normal_values(random, c.Hkv * c.d);
  for (int64_t h = 0; h < heads; ++h) {
    source.push_back(h * c.Hkv / heads);
    const int64_t row = first[h] + twin.gpu.length(layer, h);
    for (auto [to, from] : {std::pair(there.k, &k), std::pair(there.v, &v)}) {
      const auto at = from->begin() + source.back() * c.d;
      put(static_cast<const bf16*>(to) + row * c.d, narrow({at, at + c.d}));
    }
    put(there.position + row, std::vector<int32_t>{static_cast<int32_t>(twin.length)});
  }
  twin.cpu.append(layer, k.data(), v.data(), source.data(), twin.length);
  LayerToken token{normal_values(random, c.Hq * c.d), {}};
  const KvView view = twin.cpu.view(layer);
  for (int64_t h = 0; h < c.Hq; ++h) {
    double sum = 0.0;
    for (int64_t i = 0; i < view.lengths[h / group]; ++i) {
      double dot = 0.0;
      for (int64_t j = 0; j < c.d; ++j)
        dot += static_cast<double>(token.q[h * c.d + j]) * view.k_head<float>(h / group)[i * c.d + j];
      sum += std::exp(dot * scale_of(c));
    }
    token.lse.push_back(static_cast<float>(std::log(sum)));
  }
  return token;
}

// One token of every sequence, in the order of a decode step.
void DecodeEvictGpu::step(const RuleCase& c, std::vector<Twin>& twins, int index, std::mt19937& random) {
  const int64_t heads = cache_heads(c), slots = static_cast<int64_t>(twins.size()) + 1;
  std::vector<bf16> q_all(static_cast<size_t>(kLayers * slots * c.Hq * c.d), to_bf16(NAN));
  std::vector<float> lse_all(static_cast<size_t>(kLayers * slots * c.Hq), NAN);
  std::vector<DeviceKvLayer> layers;
  std::vector<DeviceEvictRecord> record;
  std::vector<int32_t> position;
  std::vector<std::vector<int32_t>> lengths;
  for (size_t t = 0; t < twins.size(); ++t) {
    Twin& twin = twins[t];
    twin.gpu.ensure_room(1);
    record.push_back(twin.on_gpu.record());
    position.push_back(static_cast<int32_t>(twin.length));
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      layers.push_back(twin.gpu.device_layer(layer));
      const LayerToken token = append(c, twin, layer, random);
      const int64_t at = layer * slots + static_cast<int64_t>(t);
      const std::vector<bf16> half = narrow(token.q);
      std::copy(half.begin(), half.end(), q_all.begin() + at * c.Hq * c.d);
      std::copy(token.lse.begin(), token.lse.end(), lse_all.begin() + at * c.Hq);
      cpu_evictor->after_token(
          twin.on_cpu, {layer, twin.length, index, token.q.data(), token.lse.data(), scale_of(c), factors.data()},
          twin.cpu);
      lengths.emplace_back();
      for (int64_t h = 0; h < heads; ++h) lengths.back().push_back(static_cast<int32_t>(twin.gpu.length(layer, h)) + 1);
    }
  }
  // NaN in the slot that no member has.
  q_gpu = gpu->to_device(q_all.data(), DType::bf16, {kLayers, slots, c.Hq * c.d});
  lse_gpu = gpu->to_device(lse_all.data(), DType::f32, {kLayers, slots, c.Hq});
  caches = gpu->to_device(layers.data(), DType::u8, {static_cast<int64_t>(layers.size() * sizeof(DeviceKvLayer))});
  records = gpu->to_device(record.data(), DType::u8, {static_cast<int64_t>(record.size() * sizeof(DeviceEvictRecord))});
  positions = gpu->to_device(position.data(), DType::i32, {static_cast<int64_t>(position.size())});
  DeviceEvictBatch batch = gpu_evictor->device_batch(slots);
  batch.layer = static_cast<const DeviceKvLayer*>(caches.raw());
  batch.record = static_cast<const DeviceEvictRecord*>(records.raw());
  batch.position = positions.data<int32_t>();
  batch.q = q_gpu.raw();
  batch.lse = lse_gpu.data<float>();
  batch.scale = scale_of(c);
  gpu_evictor->watch_step(batch, static_cast<int64_t>(twins.size()));
  std::vector<DecodedMember> members;
  for (size_t t = 0; t < twins.size(); ++t) {
    Twin& twin = twins[t];
    for (int64_t layer = 0; layer < kLayers; ++layer)
      put(twin.gpu.device_layer(layer).length, lengths[t * kLayers + static_cast<size_t>(layer)]);
    twin.gpu.advance(1);
    members.push_back({&twin.on_gpu, &twin.gpu, twin.length, index});
    ++twin.length;
  }
  const std::vector<const float*> r(kLayers, factors_gpu.data<float>());
  gpu_evictor->after_step(batch, members, r);
}

// A difference (a key next to the cut) ends with the decision that made it.
void DecodeEvictGpu::copy_to_gpu(Twin& twin, int64_t layer, int64_t head, int64_t d) {
  const KvView view = twin.cpu.view(layer);
  const DeviceKvLayer there = twin.gpu.device_layer(layer);
  const int64_t n = view.lengths[head];
  int64_t first = 0;
  gpu->to_host(there.first_row + head, &first, 8);
  put(static_cast<const bf16*>(there.k) + first * d,
      narrow({view.k_head<float>(head), view.k_head<float>(head) + n * d}));
  put(static_cast<const bf16*>(there.v) + first * d,
      narrow({view.v_head<float>(head), view.v_head<float>(head) + n * d}));
  const std::vector<int64_t> wide = twin.cpu.positions(layer, head);
  put(there.position + first, std::vector<int32_t>(wide.begin(), wide.end()));
  if (there.sums != nullptr) put(there.sums + first, twin.on_cpu.layers[layer].sums[head]);
}

// Positions, lengths as the device has them, and rows.
void DecodeEvictGpu::compare(const RuleCase& c, Twin& twin, int index) {
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const DeviceKvLayer there = twin.gpu.device_layer(layer);
    for (int64_t h = 0; h < cache_heads(c); ++h) {
      const auto want = twin.cpu.positions(layer, h);
      int32_t length = -1;
      gpu->to_host(there.length + h, &length, 4);
      ASSERT_EQ(twin.gpu.length(layer, h), static_cast<int64_t>(want.size())) << "step " << index << ", host's account";
      ASSERT_EQ(length, static_cast<int32_t>(want.size())) << "step " << index << ", layer " << layer << ", head " << h;
      const auto got = twin.gpu.positions(layer, h);
      std::vector<int64_t> other;
      std::set_difference(want.begin(), want.end(), got.begin(), got.end(), std::back_inserter(other));
      ++decisions;
      rows += length;
      rows_differ += static_cast<int64_t>(other.size());
      differ += other.empty() ? 0 : 1;
      if (other.empty() && index % 10 == 0) {
        const KvView view = twin.cpu.view(layer);
        int64_t first = 0;
        gpu->to_host(there.first_row + h, &first, 8);
        std::vector<bf16> row(static_cast<size_t>(length * c.d));
        gpu->to_host(static_cast<const bf16*>(there.v) + first * c.d, row.data(), length * c.d * 2);
        for (int64_t i = 0; i < length * c.d; ++i)
          ASSERT_EQ(to_float(row[i]), view.v_head<float>(h)[i])
              << "step " << index << ", layer " << layer << ", head " << h << ", row " << i / c.d;
      }
      if (!other.empty()) copy_to_gpu(twin, layer, h, c.d);
    }
  }
}

void DecodeEvictGpu::run(const RuleCase& c, const std::vector<int64_t>& prompts, bool ragged, int steps) {
  SCOPED_TRACE(name_of_case(c));
  const CacheConfig config = config_of(c);
  cpu_evictor = std::make_unique<DecodeEvictor>(cpu, layout(c), config, kLayers);
  gpu_evictor = std::make_unique<DecodeEvictor>(*gpu, layout(c), config, kLayers);
  std::mt19937 random(static_cast<uint32_t>(c.every + c.Hq + c.d));
  factors.assign(static_cast<size_t>(c.Hq * c.d * c.d), 0.0f);
  for (int64_t h = 0; h < c.Hq; ++h)
    for (int64_t i = 0; i < c.d; ++i)
      for (int64_t j = i; j < c.d; ++j)
        factors[(h * c.d + i) * c.d + j] = 0.1f * static_cast<float>(random() % 100) / 100.0f + (i == j ? 1.0f : 0.0f);
  factors_gpu = gpu->to_device(factors.data(), DType::f32, {c.Hq, c.d, c.d});
  std::vector<Twin> twins;
  for (int64_t L : prompts) twins.push_back(make_twin(c, L, ragged, random));
  decisions = differ = rows = rows_differ = 0;
  std::vector<int64_t> capacity;
  for (int i = 1; i <= steps && !HasFatalFailure(); ++i) {
    step(c, twins, i, random);
    for (Twin& twin : twins) compare(c, twin, i);
    if (i == steps / 2)
      for (Twin& twin : twins) capacity.push_back(twin.gpu.capacity_bytes());
  }
  for (size_t t = 0; t < twins.size() && t < capacity.size(); ++t)
    EXPECT_EQ(twins[t].gpu.capacity_bytes(), capacity[t]) << "storage grows";
  std::cout << name_of_case(c) << ": " << differ << " of " << decisions << " states differ, " << rows_differ << " of "
            << rows << " rows\n";
  const bool exact =
      c.policy == "streaming_llm" || c.policy == "sliding_window" || c.policy == "lacache" || c.policy == "random";
  // Keys next to a cut; where scores are smoothed, windows that round to another width.
  const int64_t part = c.policy == "restkv" || c.policy == "snapkv" ? 100 : 500;
  EXPECT_LE(rows_differ * part, exact ? 0 : rows);
}

TEST_F(DecodeEvictGpu, RulesByPosition) {
  run({"streaming_llm"}, {60, 90, 20}, false, 120);
  run({"streaming_llm", 7, 0, 0, 6, 3, 48}, {60, 89}, false, 120);
  run({"sliding_window", 4, 120, 50, 4, 4, 128}, {30, 90}, false, 150);
  run({"sliding_window", 1, 0, 0, 6, 2, 16, Granularity::query_head}, {30, 90}, false, 100);
  RuleCase ladder{"lacache", 1};
  ladder.window = 1;
  run(ladder, {60, 90}, false, 300);
  ladder.every = 5;
  run(ladder, {60, 90}, false, 300);
  run({"random", 3}, {80, 90}, false, 100);
  run({"random", 2, 0, 0, 6, 2, 64, Granularity::query_head}, {80, 90}, false, 100);
}

TEST_F(DecodeEvictGpu, TheLastTokensAttention) {
  RuleCase tova{"tova"};
  tova.window = 1;
  run(tova, {80, 90, 20}, false, 150);
  tova = {"tova", 4, 100, 60, 12, 3, 128};
  run(tova, {80, 90}, false, 120);
  tova = {"tova", 3, 0, 0, 9, 3, 80, Granularity::query_head};
  run(tova, {80, 90}, false, 100);
}

TEST_F(DecodeEvictGpu, RunningSums) {
  run({"h2o"}, {80, 90, 20}, false, 150);
  run({"h2o", 4, 120, 50, 4, 1, 256}, {80, 90}, false, 120);
  run({"h2o", 3, 0, 0, 6, 2, 112, Granularity::query_head}, {80, 90}, false, 100);
  run({"h2o", 2, 0, 0, 8, 4, 64, Granularity::kv_head, Allocation::ada}, {200, 150}, true, 100);
  run({"key_norm", 3}, {80, 90}, false, 100);
  run({"key_norm", 2, 0, 0, 8, 4, 48, Granularity::query_head, Allocation::ada}, {200, 150}, true, 100);
}

// More rows than a block holds keys of, and more members than one launch takes.
TEST_F(DecodeEvictGpu, ManyRowsAndManyMembers) {
  RuleCase tova{"tova", 40, 0, 0, 4, 2, 16};
  tova.window = 1;
  tova.budget = 2500;
  run(tova, {2490, 2300}, false, 80);
  run({"h2o", 40, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 2500}, {2490}, false, 80);
  std::vector<int64_t> prompts;
  for (int64_t i = 0; i < 19; ++i) prompts.push_back(40 + 2 * i);
  run({"h2o", 2, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 60}, prompts, false, 40);
  run({"streaming_llm", 1, 0, 0, 2, 1, 16, Granularity::kv_head, Allocation::uniform, 60}, prompts, false, 40);
}

TEST_F(DecodeEvictGpu, Rescoring) {
  run({"snapkv", 8}, {80, 90, 10}, false, 150);
  run({"snapkv", 8, 120, 60, 4, 4, 128, Granularity::kv_head, Allocation::uniform, 90, 16, Pooling::max}, {80, 90},
      false, 120);
  run({"restkv", 10}, {80, 90}, false, 120);
  run({"restkv", 10, 0, 0, 6, 2, 128, Granularity::query_head}, {80, 90}, false, 100);
  run({"restkv", 7, 0, 0, 8, 4, 64, Granularity::kv_head, Allocation::ada, 90, 16, Pooling::none}, {200, 150}, true,
      80);
}

TEST_F(DecodeEvictGpu, RefusesLayoutsItCannotServe) {
  auto refused = [&](DecodeLayout layout, const RuleCase& c) {
    try {
      DecodeEvictor evictor(*gpu, std::move(layout), config_of(c), kLayers);
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  RuleCase c{"h2o"};
  DecodeLayout split = layout(c);
  split.ranges = {{{0, 2}, {0, 1}}, {{2, 4}, {0, 1}}, {{4, 6}, {1, 2}}, {{6, 8}, {1, 2}}};
  split.mine.local = split.ranges[0];
  EXPECT_NE(refused(split, c).find("at most as many ranks as KV heads"), std::string::npos) << refused(split, c);
  EXPECT_EQ(refused(split, {"tova"}), "");
  EXPECT_EQ(refused(split, {"streaming_llm"}), "");
}

}  // namespace
}  // namespace restkv::testing
