#include "kvcache/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "dist/base/mix.h"
#include "kvcache/device_dispatch.h"

namespace restkv {
namespace {

void copy_row(const void* from, int64_t from_row, void* to, int64_t to_row, int64_t row_bytes) {
  std::memcpy(static_cast<char*>(to) + to_row * row_bytes, static_cast<const char*>(from) + from_row * row_bytes,
              static_cast<size_t>(row_bytes));
}

}  // namespace

KvCache::KvCache(Context& ctx, int64_t layers, int64_t heads, int64_t d, DType dtype)
    : ctx_(&ctx), heads_(heads), d_(d), dtype_(dtype), layers_(static_cast<size_t>(layers)) {
  need_cpu(ctx, "KvCache");
  clear();
}

void KvCache::allocate(Layer& layer, const std::vector<int64_t>& capacity) {
  layer.capacity = capacity;
  layer.offset.assign(static_cast<size_t>(heads_), 0);
  int64_t rows = 0;
  for (int64_t h = 0; h < heads_; ++h) {
    layer.offset[h] = rows * d_;
    rows += capacity[h];
  }
  layer.k = ctx_->empty(dtype_, {rows, d_});
  layer.v = ctx_->empty(dtype_, {rows, d_});
  layer.position.resize(static_cast<size_t>(rows));
}

void KvCache::store(int64_t layer_index, const void* k, const void* v, int64_t kv_heads, const int64_t* source_head,
                    const int64_t* positions, const std::vector<std::vector<int32_t>>& rows, int64_t reserve) {
  RESTKV_CHECK(static_cast<int64_t>(rows.size()) == heads_, "rows of {} heads for {} cache heads", rows.size(), heads_);
  RESTKV_CHECK(reserve >= 0, "reserve {}", reserve);
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  layer = Layer{};  // frees the old rows first
  std::vector<int64_t> capacity;
  for (const auto& head : rows) {
    layer.length.push_back(static_cast<int64_t>(head.size()));
    capacity.push_back(layer.length.back() + reserve);
  }
  allocate(layer, capacity);
  const int64_t row_bytes = d_ * size_of(dtype_);
  ctx_->parallel_for(heads_, [&](int64_t h) {
    RESTKV_CHECK(source_head[h] >= 0 && source_head[h] < kv_heads, "source head {} of {}", source_head[h], kv_heads);
    int64_t to = layer.offset[h] / d_;
    for (int32_t row : rows[h]) {
      copy_row(k, row * kv_heads + source_head[h], layer.k.raw(), to, row_bytes);
      copy_row(v, row * kv_heads + source_head[h], layer.v.raw(), to, row_bytes);
      layer.position[to++] = positions[row];
    }
  });
}

void KvCache::append(int64_t layer_index, const void* k, const void* v, const int64_t* source_head, int64_t position) {
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  bool full = false;
  for (int64_t h = 0; h < heads_; ++h) full = full || layer.length[h] == layer.capacity[h];
  if (full) grow(layer, 1);
  const int64_t row_bytes = d_ * size_of(dtype_);
  for (int64_t h = 0; h < heads_; ++h) {
    const int64_t to = layer.offset[h] / d_ + layer.length[h]++;
    copy_row(k, source_head[h], layer.k.raw(), to, row_bytes);
    copy_row(v, source_head[h], layer.v.raw(), to, row_bytes);
    layer.position[to] = position;
  }
}

// Room for `extra` more rows in every head, and for half as many again as it holds.
void KvCache::grow(Layer& layer, int64_t extra) {
  Layer old = std::move(layer);
  layer = Layer{};
  layer.length = old.length;
  std::vector<int64_t> capacity = old.capacity;
  for (int64_t h = 0; h < heads_; ++h)
    capacity[h] = std::max(capacity[h], old.length[h] + extra + std::max<int64_t>(15, old.length[h] / 2));
  allocate(layer, capacity);
  const int64_t row_bytes = d_ * size_of(dtype_);
  for (int64_t h = 0; h < heads_; ++h)
    for (int64_t i = 0; i < old.length[h]; ++i) {
      const int64_t from = old.offset[h] / d_ + i, to = layer.offset[h] / d_ + i;
      copy_row(old.k.raw(), from, layer.k.raw(), to, row_bytes);
      copy_row(old.v.raw(), from, layer.v.raw(), to, row_bytes);
      layer.position[to] = old.position[from];
    }
}

KvView KvCache::view(int64_t layer_index) const {
  const Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  KvView view;
  view.k = layer.k.raw();
  view.v = layer.v.raw();
  view.dtype = dtype_;
  view.heads = heads_;
  view.d = d_;
  view.row_stride = d_;
  view.head_offset = layer.offset.data();
  view.lengths = layer.length.data();
  return view;
}

int64_t KvCache::length(int64_t layer, int64_t head) const {
  return layers_.at(static_cast<size_t>(layer)).length.at(static_cast<size_t>(head));
}

std::vector<int64_t> KvCache::positions(int64_t layer_index, int64_t head) const {
  const Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  const auto first = layer.position.begin() + layer.offset.at(static_cast<size_t>(head)) / d_;
  return {first, first + layer.length[head]};
}

int64_t KvCache::layers() const { return static_cast<int64_t>(layers_.size()); }

int64_t KvCache::heads() const { return heads_; }

int64_t KvCache::bytes() const {
  int64_t rows = 0;
  for (const Layer& layer : layers_)
    for (int64_t n : layer.length) rows += n;
  return 2 * rows * d_ * size_of(dtype_);
}

int64_t KvCache::capacity_bytes() const {
  int64_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.k.bytes() + layer.v.bytes();
  return bytes;
}

void KvCache::clear() {
  for (Layer& layer : layers_) {
    layer = Layer{};
    layer.length.assign(static_cast<size_t>(heads_), 0);
    allocate(layer, layer.length);
  }
}

uint64_t kept_hash_term(int64_t layer, int64_t head, int64_t position) {
  uint64_t hash = mix64(static_cast<uint64_t>(layer));
  hash = mix64(hash ^ static_cast<uint64_t>(head));
  return mix64(hash ^ static_cast<uint64_t>(position));
}

}  // namespace restkv
