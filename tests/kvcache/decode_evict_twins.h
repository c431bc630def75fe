// The rules of eviction while decoding on GPU ranks against one CPU rank: the same queries, keys and values, token by
// token. Sequences of a batch differ in everything.
#pragma once

#include <cmath>
#include <iostream>
#include <limits>
#include <random>

#include "dist/base/error.h"
#include "kvcache/decode/decode_evictor.h"

namespace restkv::testing {

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
  bool equal_keys = false;  ///< all keys are ones
};

inline std::string name_of_case(const RuleCase& c) {
  return fmt::format("{}, every {}, {}/{} heads of {}, {}, allocation {}, trigger {}, target {}", c.policy, c.every,
                     c.Hq, c.Hkv, c.d, c.granularity == Granularity::query_head ? "query_head" : "kv_head",
                     static_cast<int>(c.allocation), c.trigger, c.target);
}

inline CacheConfig config_of(const RuleCase& c) {
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
inline std::vector<float> normal_values(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = to_float(to_bf16(normal(random)));
  return values;
}

inline std::vector<bf16> narrow(const std::vector<float>& values) {
  std::vector<bf16> half;
  for (float x : values) half.push_back(to_bf16(x));
  return half;
}

/// One sequence on both devices; on a GPU the rows that lie on its rank.
struct Twin {
  KvCache cpu, gpu;
  DecodeEvictState on_cpu, on_gpu;
  int64_t L = 0, length = 0;
};

/// One GPU rank of a group in which every rank has some of the rows of every head; or the only one.
class EvictTwins {
 public:
  EvictTwins(Context& gpu_, Communicator& rows_) : gpu(&gpu_), group(rows_) {}
  void run(const RuleCase& c, const std::vector<int64_t>& prompts, bool ragged, int steps);

 private:
  Twin make_twin(const RuleCase& c, int64_t L, bool ragged, std::mt19937& random);
  struct LayerToken {
    std::vector<float> q, lse;
  };
  static double scale_of(const RuleCase& c) { return 1.0 / std::sqrt(static_cast<double>(c.d)); }
  LayerToken append(const RuleCase& c, Twin& twin, int64_t layer, std::mt19937& random);
  void step(const RuleCase& c, std::vector<Twin>& twins, int index, std::mt19937& random);
  void compare(const RuleCase& c, Twin& twin, int index);
  void copy_to_gpu(Twin& twin, int64_t layer, int64_t head, int64_t d);

  /// Which rank has a row of the prompt, and the row of new token i.
  bool holds(int64_t position) const {
    return static_cast<int64_t>(mix64(static_cast<uint64_t>(position)) % static_cast<uint64_t>(group.size())) ==
           group.rank();
  }
  bool owns(const Twin& twin) const { return (twin.length - twin.L) % group.size() == group.rank(); }
  bool has(const Twin& twin, int64_t position) const {
    return position < twin.L ? holds(position) : (position - twin.L) % group.size() == group.rank();
  }

  DecodeLayout layout(const RuleCase& c, Communicator& rows) {
    DecodeLayout layout;
    layout.rows = &rows;
    layout.heads = self.get();
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

  Context* gpu;
  Communicator& group;
  Context cpu{Context::Options{Device::cpu, 1}};
  std::unique_ptr<Communicator> self = make_self_communicator();
  std::unique_ptr<DecodeEvictor> cpu_evictor, gpu_evictor;
  std::vector<float> factors;
  Tensor factors_gpu, caches, records, positions, owners, q_gpu, lse_gpu;
  int64_t decisions = 0, differ = 0, rows = 0, rows_differ = 0;
};

// A prompt whose rows all stay, or of which heads keep different numbers of rows.
inline Twin EvictTwins::make_twin(const RuleCase& c, int64_t L, bool ragged, std::mt19937& random) {
  const int64_t heads = cache_heads(c);
  Twin twin{
      KvCache(cpu, kLayers, heads, c.d, DType::f32), KvCache(*gpu, kLayers, heads, c.d, DType::bf16), {}, {}, L, L};
  if (gpu_evictor->needs_column_sums()) twin.gpu.keep_sums();
  std::vector<int64_t> source, position, here, head_index;
  for (int64_t h = 0; h < heads; ++h) source.push_back(h * c.Hkv / heads), head_index.push_back(h);
  for (int64_t i = 0; i < L; ++i) position.push_back(i);
  std::copy_if(position.begin(), position.end(), std::back_inserter(here), [this](int64_t p) { return holds(p); });
  const auto L_lc = static_cast<int64_t>(here.size());
  const auto local = [&](const std::vector<float>& all) {  // the rows of this rank
    std::vector<bf16> part;
    const int64_t width = static_cast<int64_t>(all.size()) / L;
    for (int64_t p : here)
      for (int64_t i = 0; i < width; ++i) part.push_back(to_bf16(all[static_cast<size_t>(p * width + i)]));
    return part;
  };
  std::vector<std::vector<int64_t>> kept_counts;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    std::vector<float> k = normal_values(random, L * c.Hkv * c.d), v = normal_values(random, L * c.Hkv * c.d);
    if (c.equal_keys) std::fill(k.begin(), k.end(), 1.0f);
    const std::vector<float> q = normal_values(random, std::min(L, c.window) * c.Hq * c.d);
    std::vector<int64_t> sums;
    for (int64_t i = 0; i < c.Hq * L; ++i) sums.push_back(static_cast<int64_t>(random() % 1000) << 30);
    KeptRows kept = KeptRows::everything(L, head_index), kept_gpu = KeptRows::everything(L_lc, head_index);
    kept_counts.emplace_back(static_cast<size_t>(heads), L);
    if (ragged) {
      std::vector<std::vector<int32_t>> rows_of(static_cast<size_t>(heads)), rows_here(rows_of.size());
      int64_t together = 0;
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < L; ++i)
          if (i >= L - c.window || static_cast<int64_t>(random() % 100) < 20 + 10 * (h % 4))
            rows_of[h].push_back(static_cast<int32_t>(i));
        kept_counts.back()[h] = static_cast<int64_t>(rows_of[h].size());
        for (int64_t i = 0; i < L_lc; ++i)
          if (std::binary_search(rows_of[h].begin(), rows_of[h].end(), static_cast<int32_t>(here[i])))
            rows_here[h].push_back(static_cast<int32_t>(i));
        together += kept_counts.back()[h];
      }
      kept = KeptRows::from_host(cpu, rows_of, head_index);
      kept_gpu = KeptRows::from_host(*gpu, rows_here, head_index);
      kept_gpu.known = -1;
      kept_gpu.together = together;
    }
    const std::vector<bf16> k_half = local(k), v_half = local(v), q_half = narrow(q);
    twin.cpu.store(layer, MatrixView(k.data(), L, c.Hkv * c.d), MatrixView(v.data(), L, c.Hkv * c.d), c.Hkv, source,
                   cpu.to_device(position.data(), DType::i64, {L}), kept, 1);
    const Tensor k_there = gpu->to_device(k_half.data(), DType::bf16, {L_lc, c.Hkv * c.d}),
                 v_there = gpu->to_device(v_half.data(), DType::bf16, {L_lc, c.Hkv * c.d}),
                 q_there = gpu->to_device(q_half.data(), DType::bf16, {std::min(L, c.window), c.Hq * c.d}),
                 sums_there = gpu->to_device(sums.data(), DType::i64, {c.Hq, L});
    twin.gpu.store(layer, MatrixView(k_there), MatrixView(v_there), c.Hkv, source,
                   gpu->to_device(here.data(), DType::i64, {L_lc}), kept_gpu,
                   group.size() > 1 ? gpu_evictor->spread_growth(L, L_lc, layer, ragged)
                                    : gpu_evictor->most_growth(L, layer, ragged));
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
inline EvictTwins::LayerToken EvictTwins::append(const RuleCase& c, Twin& twin, int64_t layer, std::mt19937& random) {
  const int64_t heads = cache_heads(c), group = c.Hq / heads;
  const DeviceKvLayer there = twin.gpu.device_layer(layer);
  std::vector<int64_t> first(static_cast<size_t>(heads)), source;
  gpu->to_host(there.first_row, first.data(), heads * 8);
  std::vector<float> k = normal_values(random, c.Hkv * c.d), v = normal_values(random, c.Hkv * c.d);
  if (c.equal_keys) std::fill(k.begin(), k.end(), 1.0f);
  for (int64_t h = 0; h < heads; ++h) {
    source.push_back(h * c.Hkv / heads);
    if (!owns(twin)) continue;
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
inline void EvictTwins::step(const RuleCase& c, std::vector<Twin>& twins, int index, std::mt19937& random) {
  const int64_t heads = cache_heads(c), slots = static_cast<int64_t>(twins.size()) + 1;
  std::vector<bf16> q_all(static_cast<size_t>(kLayers * slots * c.Hq * c.d), to_bf16(NAN));
  std::vector<float> lse_all(static_cast<size_t>(kLayers * slots * c.Hq), NAN);
  std::vector<DeviceKvLayer> layers;
  std::vector<DeviceEvictRecord> record;
  std::vector<int32_t> position, next, owner;
  std::vector<std::vector<int32_t>> lengths;
  for (size_t t = 0; t < twins.size(); ++t) {
    Twin& twin = twins[t];
    twin.gpu.ensure_room(1);
    record.push_back(twin.on_gpu.record());
    position.push_back(static_cast<int32_t>(twin.length));
    next.push_back(position.back() + 1);
    owner.push_back(owns(twin) ? 1 : 0);
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
      for (int64_t h = 0; h < heads; ++h)
        lengths.back().push_back(static_cast<int32_t>(twin.gpu.length(layer, h)) + owner.back());
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
  if (group.size() > 1) {
    owners = gpu->to_device(owner.data(), DType::i32, {static_cast<int64_t>(owner.size())});
    batch.owner = owners.data<int32_t>();
  }
  batch.q = q_gpu.raw();
  batch.lse = lse_gpu.data<float>();
  batch.scale = scale_of(c);
  gpu_evictor->watch_step(batch, static_cast<int64_t>(twins.size()));
  put(batch.position, next);
  std::vector<DecodedMember> members;
  for (size_t t = 0; t < twins.size(); ++t) {
    Twin& twin = twins[t];
    for (int64_t layer = 0; layer < kLayers; ++layer)
      put(twin.gpu.device_layer(layer).length, lengths[t * kLayers + static_cast<size_t>(layer)]);
    if (owns(twin)) twin.gpu.advance(1);
    members.push_back({&twin.on_gpu, &twin.gpu, twin.length, index});
    ++twin.length;
  }
  const std::vector<const float*> r(kLayers, factors_gpu.data<float>());
  gpu_evictor->after_step(batch, members, r);
}

// A difference (a key next to the cut) ends with the decision that made it.
inline void EvictTwins::copy_to_gpu(Twin& twin, int64_t layer, int64_t head, int64_t d) {
  const KvView view = twin.cpu.view(layer);
  const DeviceKvLayer there = twin.gpu.device_layer(layer);
  int64_t first = 0;
  gpu->to_host(there.first_row + head, &first, 8);
  const std::vector<int64_t> all = twin.cpu.positions(layer, head);
  int32_t n = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (!has(twin, all[i])) continue;
    const int64_t row = first + n++;
    const float *k = view.k_head<float>(head) + static_cast<int64_t>(i) * d,
                *v = view.v_head<float>(head) + static_cast<int64_t>(i) * d;
    put(static_cast<const bf16*>(there.k) + row * d, narrow({k, k + d}));
    put(static_cast<const bf16*>(there.v) + row * d, narrow({v, v + d}));
    put(there.position + row, std::vector<int32_t>{static_cast<int32_t>(all[i])});
    if (there.sums != nullptr) put(there.sums + row, std::vector<int64_t>{twin.on_cpu.layers[layer].sums[head][i]});
  }
  put(there.length + head, std::vector<int32_t>{n});
}

// Positions, lengths as the device has them, and rows.
inline void EvictTwins::compare(const RuleCase& c, Twin& twin, int index) {
  bool repaired = false;
  twin.gpu.refresh_lengths();
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const DeviceKvLayer there = twin.gpu.device_layer(layer);
    for (int64_t h = 0; h < cache_heads(c); ++h) {
      const std::vector<int64_t> all = twin.cpu.positions(layer, h);
      std::vector<int64_t> want, places;  // of this rank's rows among all
      for (size_t i = 0; i < all.size(); ++i)
        if (has(twin, all[i])) want.push_back(all[i]), places.push_back(static_cast<int64_t>(i));
      int32_t length = -1;
      gpu->to_host(there.length + h, &length, 4);
      const auto got = twin.gpu.positions(layer, h);
      ASSERT_EQ(length, static_cast<int32_t>(got.size())) << "step " << index << ", layer " << layer << ", head " << h;
      if (group.size() == 1) {
        ASSERT_EQ(got.size(), want.size()) << "step " << index << ", layer " << layer << ", head " << h;
      }
      std::vector<int64_t> other;
      std::set_symmetric_difference(want.begin(), want.end(), got.begin(), got.end(), std::back_inserter(other));
      ++decisions;
      rows += length;
      rows_differ += static_cast<int64_t>(other.size() + 1) / 2;
      differ += other.empty() ? 0 : 1;
      if (other.empty() && index % 10 == 0) {
        const KvView view = twin.cpu.view(layer);
        int64_t first = 0;
        gpu->to_host(there.first_row + h, &first, 8);
        std::vector<bf16> row(static_cast<size_t>(length * c.d));
        gpu->to_host(static_cast<const bf16*>(there.v) + first * c.d, row.data(), length * c.d * 2);
        for (int64_t i = 0; i < length * c.d; ++i)
          ASSERT_EQ(to_float(row[i]), view.v_head<float>(h)[places[i / c.d] * c.d + i % c.d])
              << "step " << index << ", layer " << layer << ", head " << h << ", row " << i / c.d;
      }
      if (!other.empty()) copy_to_gpu(twin, layer, h, c.d);
      repaired = repaired || !other.empty();
    }
  }
  // The host's account follows the device's where that was changed from outside.
  if (repaired && group.size() > 1) {
    for (int64_t layer = 0; layer < kLayers; ++layer)
      for (int64_t h = 0; h < cache_heads(c); ++h) twin.gpu.cut_at_most(layer, h, std::numeric_limits<int64_t>::max());
    twin.gpu.refresh_lengths();
  }
}

inline void EvictTwins::run(const RuleCase& c, const std::vector<int64_t>& prompts, bool ragged, int steps) {
  SCOPED_TRACE(name_of_case(c));
  const CacheConfig config = config_of(c);
  cpu_evictor = std::make_unique<DecodeEvictor>(cpu, layout(c, *self), config, kLayers);
  gpu_evictor = std::make_unique<DecodeEvictor>(*gpu, layout(c, group), config, kLayers);
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
  for (int i = 1; i <= steps && !::testing::Test::HasFatalFailure(); ++i) {
    step(c, twins, i, random);
    for (Twin& twin : twins) compare(c, twin, i);
    if (i == steps / 2)
      for (Twin& twin : twins) capacity.push_back(twin.gpu.capacity_bytes());
  }
  for (size_t t = 0; t < twins.size() && t < capacity.size(); ++t)
    EXPECT_EQ(twins[t].gpu.capacity_bytes(), capacity[t]) << "storage grows";
  std::cout << fmt::format("{}, rank {} of {}: ", name_of_case(c), group.rank(), group.size()) << differ << " of "
            << decisions << " states differ, " << rows_differ << " of " << rows << " rows\n";
  const bool exact =
      c.policy == "streaming_llm" || c.policy == "sliding_window" || c.policy == "lacache" || c.policy == "random";
  // Keys next to a cut; where scores are smoothed, windows that round to another width.
  const int64_t part = c.policy == "restkv" || c.policy == "snapkv" ? 100 : 500;
  EXPECT_LE(rows_differ * part, exact ? 0 : rows);
}

}  // namespace restkv::testing
