// Positions in the cache (kvcache/slots.h), in the batch on a GPU: before a layer's attention one launch appends the
// new rows, turns the layer's keys by their slots into scratch, and the queries by the new token's. Attention then
// reads records whose keys are the scratch.
#include <algorithm>

#include "dist/base/error.h"
#include "model/decode_batch_buffers.h"
#include "model/decode_batch_device.h"
#include "model/ops/cache_rope.h"

namespace restkv {

void DeviceDecodeBatch::allocate_views() {
  if (!model_.cache_config().re_indexes()) return;
  const ModelConfig& c = model_.config();
  b_->no_rotation = ctx_.zeros(DType::f32, {c.d / 2});
  b_->no_owners = ctx_.zeros(DType::i32, {size()});
  b_->attended_rows = ctx_.zeros(DType::i32, {size(), std::max<int64_t>(1, b_->heads.cache_heads())});
  b_->views = ctx_.empty(DType::u8, {size() * c.layers * static_cast<int64_t>(sizeof(DeviceKvLayer))});
  b_->keys.resize(static_cast<size_t>(size()));
}

// The scratch is used by one layer after another: all views of a member have the same keys. It is as large as the
// largest layer's storage, whose rows it mirrors.
void DeviceDecodeBatch::prepare_views() {
  if (!model_.cache_config().re_indexes()) return;
  const ModelConfig& c = model_.config();
  std::vector<DeviceKvLayer> views;
  for (size_t i = 0; i < members_.size(); ++i) {
    const KvCache& cache = members_[i].sequence->cache;
    int64_t rows = 0;
    for (int64_t layer = 0; layer < c.layers; ++layer) rows = std::max(rows, cache.storage_rows(layer));
    Tensor& keys = b_->keys[i];
    if (keys.empty() || keys.size(0) < rows) {
      keys = Tensor();  // frees the old ones first
      keys = ctx_.empty(DType::bf16, {rows, c.d});
    }
    int32_t* lengths = b_->attended_rows.rows(static_cast<int64_t>(i), 1).data<int32_t>();
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      DeviceKvLayer view = cache.device_layer(layer);
      view.k = keys.raw();
      view.length = lengths;
      views.push_back(view);
    }
  }
  ctx_.gpu()->to_device(b_->views.raw(), views.data(), static_cast<int64_t>(views.size() * sizeof(DeviceKvLayer)));
}

// `attention` comes filled in for rotated rows, and goes on with the views.
void DeviceDecodeBatch::enqueue_slots(int64_t layer, const DecodeQkv& projection, BatchDecodeAttention& attention) {
  BatchCacheRotation rotation;
  rotation.q = projection.q;
  rotation.k = projection.k;
  rotation.v = projection.v;
  rotation.position = projection.positions;
  rotation.owner = attention.owner;
  rotation.layer = attention.layer;
  rotation.layer_stride = attention.layer_stride;
  rotation.view = static_cast<const DeviceKvLayer*>(b_->views.raw()) + layer;
  rotation.view_stride = model_.config().layers;
  rotation.d = attention.d;
  rotation.frequencies = b_->frequencies.data<float>();
  rotation.factor = static_cast<float>(model_.config().rope.attention_factor);
  rotate_cache_batch(ctx_, rotation, b_->heads);
  attention.layer = rotation.view;
  attention.layer_stride = rotation.view_stride;
  attention.owner = b_->no_owners.data<int32_t>();  // the new rows are there already
  attention.settled = false;                        // the keys are written by the launch before
}

}  // namespace restkv
