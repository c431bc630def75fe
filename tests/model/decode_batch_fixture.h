// A batch of ragged caches on the device with their copy on the host, and attention over it in both places.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "dist/base/mix.h"
#include "model/ops/attention_decode.h"

namespace restkv::testing {

/// Uniform in [-1.7, 1.7], as bf16.
inline std::vector<bf16> random_bf16(int64_t n, uint64_t seed) {
  std::vector<bf16> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    x[i] = to_bf16(static_cast<float>(3.4 * unit_interval(mix64(mix64(seed) + static_cast<uint64_t>(i))) - 1.7));
  return x;
}

/// One layer of one sequence. Rows not in use are NaN, positions not in use -1.
struct LayerCache {
  int64_t d = 0;
  std::vector<bf16> k, v;
  std::vector<int64_t> first_row;
  std::vector<int32_t> length, position;
  Tensor k_gpu, v_gpu, first_row_gpu, length_gpu, position_gpu;

  LayerCache(Context& gpu, const std::vector<int32_t>& lengths, int64_t room, int64_t d_, uint64_t seed)
      : d(d_), length(lengths) {
    int64_t rows = 0;
    for (int32_t n : lengths) {
      first_row.push_back(rows);
      rows += n + room;
    }
    k = random_bf16(rows * d, seed);
    v = random_bf16(rows * d, seed + 1);
    position.assign(static_cast<size_t>(rows), -1);
    for (size_t h = 0; h < lengths.size(); ++h)
      for (int64_t r = lengths[h]; r < lengths[h] + room; ++r)
        for (int64_t c = 0; c < d; ++c) k[(first_row[h] + r) * d + c] = v[(first_row[h] + r) * d + c] = to_bf16(NAN);
    k_gpu = gpu.to_device(k.data(), DType::bf16, {rows, d});
    v_gpu = gpu.to_device(v.data(), DType::bf16, {rows, d});
    first_row_gpu = gpu.to_device(first_row.data(), DType::i64, {static_cast<int64_t>(lengths.size())});
    length_gpu = gpu.to_device(lengths.data(), DType::i32, {static_cast<int64_t>(lengths.size())});
    position_gpu = gpu.to_device(position.data(), DType::i32, {rows});
  }

  DeviceKvLayer record() const {
    return {k_gpu.raw(), v_gpu.raw(), position_gpu.data<int32_t>(), first_row_gpu.data<int64_t>(),
            length_gpu.data<int32_t>()};
  }

  /// What a kernel does to the cache: the new row at the end of head h.
  void append(int64_t h, const bf16* k_row, const bf16* v_row, int32_t at) {
    int64_t row = first_row[h] + length[h];
    std::copy_n(k_row, d, &k[row * d]);
    std::copy_n(v_row, d, &v[row * d]);
    position[row] = at;
  }
};

/// Inputs and outputs of one launch for `batch` sequences.
struct StepBuffers {
  std::vector<bf16> q, k, v;
  std::vector<int32_t> positions;
  Tensor q_gpu, k_gpu, v_gpu, positions_gpu, out, out_f32, lse;

  StepBuffers(Context& gpu, int64_t batch, int64_t q_cols, int64_t kv_cols, int64_t Hq, uint64_t seed)
      : q(random_bf16(batch * q_cols, seed)),
        k(random_bf16(batch * kv_cols, seed + 1)),
        v(random_bf16(batch * kv_cols, seed + 2)) {
    for (int64_t b = 0; b < batch; ++b) positions.push_back(static_cast<int32_t>(100000 + 17 * b));
    q_gpu = gpu.to_device(q.data(), DType::bf16, {batch, q_cols});
    k_gpu = gpu.to_device(k.data(), DType::bf16, {batch, kv_cols});
    v_gpu = gpu.to_device(v.data(), DType::bf16, {batch, kv_cols});
    positions_gpu = gpu.to_device(positions.data(), DType::i32, {batch});
    std::vector<bf16> poison(q.size(), to_bf16(NAN));
    std::vector<float> poison_f32(q.size(), NAN);
    out = gpu.to_device(poison.data(), DType::bf16, {batch, q_cols});
    out_f32 = gpu.to_device(poison_f32.data(), DType::f32, {batch, q_cols});
    lse = gpu.to_device(poison_f32.data(), DType::f32, {batch, Hq});
  }
};

struct HostResult {
  std::vector<float> out, lse;
};

/// The CPU op on the same values, for one sequence; with `owner` the new row takes part.
inline HostResult attend_on_cpu(Context& cpu, const LayerCache& cache, const DecodeHeads& heads, const bf16* q,
                                const bf16* k_new, const bf16* v_new, bool owner) {
  int64_t d = cache.d, Hq = heads.Hq_lc();
  std::vector<float> k, v, query(static_cast<size_t>(Hq * d));
  std::vector<int64_t> offsets, lengths;
  for (int64_t i = 0; i < Hq * d; ++i) query[i] = to_float(q[i]);
  auto add = [&](const bf16* k_row, const bf16* v_row) {
    for (int64_t c = 0; c < d; ++c) {
      k.push_back(to_float(k_row[c]));
      v.push_back(to_float(v_row[c]));
    }
  };
  for (int64_t h = 0; h < heads.cache_heads(); ++h) {
    offsets.push_back(static_cast<int64_t>(k.size()));
    lengths.push_back(cache.length[h] + (owner ? 1 : 0));
    for (int64_t r = 0; r < cache.length[h]; ++r)
      add(&cache.k[(cache.first_row[h] + r) * d], &cache.v[(cache.first_row[h] + r) * d]);
    if (owner) add(k_new + heads.source[h] * d, v_new + heads.source[h] * d);
  }
  HostResult result{std::vector<float>(static_cast<size_t>(Hq * d)), std::vector<float>(static_cast<size_t>(Hq))};
  KvView view{k.data(), v.data(), DType::f32, heads.cache_heads(), d, d, offsets.data(), lengths.data()};
  attention_decode(cpu,
                   {query.data(), heads.head.data(), Hq, 1.0 / std::sqrt(static_cast<double>(d)), result.out.data(),
                    result.lse.data()},
                   view);
  return result;
}

/// Every cache head with `group` query heads of its own; query-head granularity (one cache head per query head) has
/// `group` cache heads that copy from one KV head.
inline DecodeHeads make_heads(int64_t Hkv, int64_t group, bool per_query_head) {
  DecodeHeads heads;
  for (int64_t i = 0; i < Hkv * group; ++i) {
    heads.head.push_back(per_query_head ? i : i / group);
    if (per_query_head) heads.source.push_back(i / group);
  }
  if (!per_query_head)
    for (int64_t g = 0; g < Hkv; ++g) heads.source.push_back(g);
  return heads;
}

}  // namespace restkv::testing
