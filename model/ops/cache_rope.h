// Rotation by slots: with positions in the cache (kvcache/slots.h) keys are cached as they are before their rotation,
// and every step turns a layer's keys by the places that they have by now, into scratch of the layer's size.
#pragma once

#include <vector>

#include "kvcache/device_kv.h"
#include "kvcache/kv_view.h"
#include "model/ops/attention_decode.h"
#include "model/ops/rope.h"

namespace restkv {

/// CPU ranks. keys: every row of the cache's K turned by its slot, in the same place (head_offset, row_stride). Rows of
/// the storage that are not in use stay as they are. table (rope.h): row s is for slot s.
void rotate_cache(Context& ctx, const KvView& cache, const Tensor& table, float* keys);

/// CPU ranks. Turns each query head in place by the slot of the new token in its cache head. q [Hq_lc, d]; head [Hq_lc]
/// cache head of each query head; slot [cache heads].
void rotate_queries(Context& ctx, float* q, const std::vector<int64_t>& head, const std::vector<int64_t>& slot,
                    int64_t d, const Tensor& table);

/// One layer of a batch, on a GPU; all pointers are device memory. Reads lengths on the device, so that a step can be
/// captured once.
struct BatchCacheRotation {
  MatrixView q;                          ///< bf16 [batch, Hq_lc d] not rotated; turned in place
  MatrixView k, v;                       ///< bf16 [batch, Hkv_lc d] the new token's rows; k not rotated
  const int32_t* position = nullptr;     ///< [batch] global position of the new token
  const int32_t* owner = nullptr;        ///< [batch] 0: another rank keeps the new token; null: this rank keeps all
  const DeviceKvLayer* layer = nullptr;  ///< sequence b's cache is layer[b * layer_stride]; there is room for a row
  int64_t layer_stride = 0;
  /// What attention is to read: records whose k and length are memory of their own, k as large as the cache's; the rest
  /// is the cache's.
  const DeviceKvLayer* view = nullptr;
  int64_t view_stride = 0;
  int64_t d = 0;                       ///< a multiple of 16
  const float* frequencies = nullptr;  ///< [d/2]
  float factor = 1.0f;                 ///< RopeConfig::attention_factor
};

/// GPU ranks, in stream order. Appends the new token's rows to the cache where this rank keeps them (its lengths stay:
/// advance_decode), writes the layer's keys, the new one included, turned by their slots to the view's k, the number of
/// these rows to its length, and turns the queries by the slot of the new token. Attention then reads the view, with an
/// owner of 0 for all.
void rotate_cache_batch(Context& ctx, const BatchCacheRotation& args, const DecodeHeads& heads);

namespace cpu {
void rotate_cache(Context& ctx, const KvView& cache, const float* table, float* keys);
}

namespace gpu {
void rotate_cache_batch(Context& ctx, const BatchCacheRotation& args, const DecodeHeads& heads);
}

}  // namespace restkv
