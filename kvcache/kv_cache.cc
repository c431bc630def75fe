#include "kvcache/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "kvcache/cache_rows.h"
#include "kvcache/device_dispatch.h"

namespace restkv {

KvCache::KvCache(Context& ctx, int64_t layers, int64_t heads, int64_t d, DType dtype, bool slots)
    : ctx_(&ctx), heads_(heads), d_(d), dtype_(dtype), slots_(slots), layers_(static_cast<size_t>(layers)) {
  if (slots_) totals_ = ctx.zeros(DType::i32, {layers, heads});
  if (on_gpu()) {
    first_rows_ = ctx.empty(DType::i64, {layers, heads});
    lengths_ = ctx.empty(DType::i32, {layers, heads});
  }
  clear();
}

void KvCache::keep_sums() {
  RESTKV_CHECK(on_gpu() && !sums_, "sums of rows on {}", name_of(ctx_->device()));
  sums_ = true;
  clear();
}

// Where heads with these capacities begin.
void KvCache::lay_out(Layer& layer, const std::vector<int64_t>& capacity) {
  layer.capacity = capacity;
  layer.first_row.assign(static_cast<size_t>(heads_), 0);
  layer.offset.assign(static_cast<size_t>(heads_), 0);
  int64_t rows = 0;
  for (int64_t h = 0; h < heads_; ++h) {
    layer.first_row[h] = rows;
    layer.offset[h] = rows * d_;
    rows += capacity[h];
  }
}

void KvCache::allocate_rows(Layer& layer, int64_t rows) {
  layer.k = ctx_->empty(dtype_, {rows, d_});
  layer.v = ctx_->empty(dtype_, {rows, d_});
  layer.position = ctx_->empty(DType::i32, {rows});
  if (slots_) layer.slot = ctx_->empty(DType::i32, {rows});
  if (sums_) layer.sums = ctx_->empty(DType::i64, {rows});
}

void KvCache::allocate(Layer& layer, const std::vector<int64_t>& capacity) {
  lay_out(layer, capacity);
  allocate_rows(layer, heads_ > 0 ? layer.first_row.back() + capacity.back() : 0);
}

// Of heads whose lengths only the device knows.
void KvCache::begin_packed(Layer& layer, int64_t most, int64_t together, int64_t reserve) {
  layer.packed = true;
  layer.laid_out = false;
  layer.known = false;
  layer.reserve = reserve;
  layer.length.assign(static_cast<size_t>(heads_), most);
  lay_out(layer, layer.length);  // until settle_packed(): nobody asks
  allocate_rows(layer, std::min(together, heads_ * most) + heads_ * reserve);
}

// The lengths have come: gives back what the bound had too much.
void KvCache::settle_packed(Layer& layer) {
  layer.laid_out = true;
  std::vector<int64_t> capacity;
  for (int64_t length : layer.length) capacity.push_back(length + layer.reserve);
  lay_out(layer, capacity);
  const int64_t rows = heads_ > 0 ? layer.first_row.back() + capacity.back() : 0;
  RESTKV_CHECK(rows <= layer.position.numel(), "{} rows in room for {}", rows, layer.position.numel());
  if (rows == layer.position.numel()) return;
  const Layer large = layer;
  allocate_rows(layer, rows);
  for (auto [to, from] :
       {std::pair(&layer.k, &large.k), std::pair(&layer.v, &large.v), std::pair(&layer.position, &large.position),
        std::pair(&layer.sums, &large.sums), std::pair(&layer.slot, &large.slot)})
    if (to->bytes() > 0) ctx_->copy(to->raw(), from->raw(), to->bytes());
}

namespace {

void check_source(const MatrixView& k, const MatrixView& v, int64_t kv_heads, int64_t d, DType dtype) {
  for (const MatrixView* m : {&k, &v})
    RESTKV_CHECK(m->rows == 0 || (m->dtype == dtype && m->cols == kv_heads * d && m->ld >= m->cols),
                 "rows of {} elements of {}, {} apart, for {} heads of size {} of {}", m->cols, name_of(m->dtype),
                 m->ld, kv_heads, d, name_of(dtype));
}

}  // namespace

void KvCache::store(int64_t layer_index, const MatrixView& k, const MatrixView& v, int64_t kv_heads,
                    const std::vector<int64_t>& source_head, const Tensor& positions, const KeptRows& kept,
                    int64_t reserve) {
  RESTKV_CHECK(kept.heads() == heads_, "rows of {} heads for {} cache heads", kept.heads(), heads_);
  RESTKV_CHECK(static_cast<int64_t>(source_head.size()) == heads_, "{} source heads for {} cache heads",
               source_head.size(), heads_);
  for (int64_t head : source_head) RESTKV_CHECK(head >= 0 && head < kv_heads, "source head {} of {}", head, kv_heads);
  RESTKV_CHECK(reserve >= 0, "reserve {}", reserve);
  RESTKV_CHECK(positions.dtype() == DType::i64 || positions.dtype() == DType::i32, "positions are {}",
               positions.describe());
  check_source(k, v, kv_heads, d_, dtype_);
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  layer = Layer{};  // frees the old rows first
  const CacheSource source{k, v, source_head, positions};
  if (on_gpu() && kept.known < 0 && kept.together >= 0) {
    begin_packed(layer, kept.capacity(), kept.together, reserve);
    gpu::store_rows(*ctx_, source, kept, rows_of(layer), first_rows_.data<int64_t>() + layer_index * heads_,
                    lengths_.data<int32_t>() + layer_index * heads_, reserve);
    return;
  }
  layer.known = kept.known >= 0 || !on_gpu();
  std::vector<int64_t> capacity;
  for (int64_t h = 0; h < heads_; ++h) {
    layer.length.push_back(kept.known >= 0 ? kept.known : on_gpu() ? kept.capacity() : kept.counts.data<int32_t>()[h]);
    capacity.push_back(layer.length.back() + reserve);
  }
  allocate(layer, capacity);
  if (on_gpu())
    gpu::store_rows(*ctx_, source, kept, rows_of(layer), first_rows_.data<int64_t>() + layer_index * heads_,
                    lengths_.data<int32_t>() + layer_index * heads_);
  else
    cpu::store_rows(*ctx_, source, kept, rows_of(layer));
}

DeviceKvLayer KvCache::make_rows(int64_t layer_index, int64_t length, int64_t reserve) {
  RESTKV_CHECK(on_gpu() && length >= 0 && reserve >= 0, "{} rows and {} more on {}", length, reserve,
               name_of(ctx_->device()));
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  layer = Layer{};  // frees the old rows first
  layer.length.assign(static_cast<size_t>(heads_), length);
  allocate(layer, std::vector<int64_t>(static_cast<size_t>(heads_), length + reserve));
  gpu::begin_rows(*ctx_, heads_, length + reserve, length, first_rows_.data<int64_t>() + layer_index * heads_,
                  lengths_.data<int32_t>() + layer_index * heads_);
  return device_layer(layer_index);
}

DeviceKvLayer KvCache::make_ragged_rows(int64_t layer_index, const Tensor& counts, int64_t first, int64_t most,
                                        int64_t together, int64_t reserve) {
  RESTKV_CHECK(on_gpu() && counts.dtype() == DType::i32 && first + heads_ <= counts.size(1), "counts {} of {} heads",
               counts.describe(), heads_);
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  layer = Layer{};  // frees the old rows first
  begin_packed(layer, most, together, reserve);
  gpu::pack_heads(*ctx_, counts.data<int32_t>() + first, counts.size(0), counts.size(1), heads_, reserve,
                  first_rows_.data<int64_t>() + layer_index * heads_, lengths_.data<int32_t>() + layer_index * heads_);
  return device_layer(layer_index);
}

CacheRows KvCache::rows_of(const Layer& layer) const {
  return {layer.k.raw(),
          layer.v.raw(),
          layer.position.data<int32_t>(),
          &layer.first_row,
          &layer.capacity,
          d_ * size_of(dtype_),
          layer.sums.empty() ? nullptr : layer.sums.data<int64_t>(),
          slots_ ? layer.slot.data<int32_t>() : nullptr};
}

void KvCache::append(int64_t layer_index, const void* k, const void* v, const int64_t* source_head, int64_t position) {
  need_cpu(*ctx_, "KvCache::append");
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  bool full = false;
  for (int64_t h = 0; h < heads_; ++h) full = full || layer.length[h] == layer.capacity[h];
  if (full) grow(layer_index, 1);
  const int64_t row_bytes = d_ * size_of(dtype_);
  for (int64_t h = 0; h < heads_; ++h) {
    const int64_t to = layer.first_row[h] + layer.length[h]++, from = source_head[h] * row_bytes;
    std::memcpy(static_cast<char*>(layer.k.raw()) + to * row_bytes, static_cast<const char*>(k) + from,
                static_cast<size_t>(row_bytes));
    std::memcpy(static_cast<char*>(layer.v.raw()) + to * row_bytes, static_cast<const char*>(v) + from,
                static_cast<size_t>(row_bytes));
    layer.position.data<int32_t>()[to] = static_cast<int32_t>(position);
    if (slots_) layer.slot.data<int32_t>()[to] = totals_of(layer_index)[h];
  }
}

void KvCache::count_new_row(int64_t layer_index) {
  need_cpu(*ctx_, "KvCache::count_new_row");
  RESTKV_CHECK(slots_, "rows are counted where they carry slots");
  for (int64_t h = 0; h < heads_; ++h) ++totals_of(layer_index)[h];
}

int64_t KvCache::next_slot(int64_t layer_index, int64_t head) const {
  need_cpu(*ctx_, "KvCache::next_slot");
  return slots_ ? totals_of(layer_index)[head] : length(layer_index, head);
}

int64_t KvCache::storage_rows(int64_t layer_index) const {
  return layers_.at(static_cast<size_t>(layer_index)).position.numel();
}

int32_t* KvCache::slots_of(int64_t layer_index) const {
  return layers_.at(static_cast<size_t>(layer_index)).slot.data<int32_t>();
}

int32_t* KvCache::totals_of(int64_t layer_index) const { return totals_.data<int32_t>() + layer_index * heads_; }

void KvCache::retain(int64_t layer_index, int64_t head, const std::vector<int32_t>& rows) {
  need_cpu(*ctx_, "KvCache::retain");
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  const int64_t row_bytes = d_ * size_of(dtype_), first = layer.first_row.at(static_cast<size_t>(head));
  int64_t at = 0;
  for (const int64_t row : rows) {
    RESTKV_CHECK(row >= at && row < layer.length[head], "row {} of {} after {}", row, layer.length[head], at);
    // Rows only move down, one after the other: none is overwritten before it has moved.
    if (row != at) {
      for (const Tensor* t : {&layer.k, &layer.v})
        std::memcpy(static_cast<char*>(t->raw()) + (first + at) * row_bytes,
                    static_cast<const char*>(t->raw()) + (first + row) * row_bytes, static_cast<size_t>(row_bytes));
      layer.position.data<int32_t>()[first + at] = layer.position.data<int32_t>()[first + row];
    }
    ++at;
  }
  layer.length[head] = at;
}

void KvCache::cut(int64_t layer_index, int64_t head, int64_t rows) {
  int64_t& length = layers_.at(static_cast<size_t>(layer_index)).length.at(static_cast<size_t>(head));
  RESTKV_CHECK(on_gpu() && rows >= 0 && rows <= length, "{} of {} rows are left", rows, length);
  length = rows;
}

void KvCache::cut_at_most(int64_t layer_index, int64_t head, int64_t rows) {
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  RESTKV_CHECK(on_gpu() && rows >= 0 && layer.laid_out, "at most {} rows are left in layer {}", rows, layer_index);
  int64_t& length = layer.length.at(static_cast<size_t>(head));
  length = std::min(length, rows);
  layer.known = false;
}

// Room for `extra` more rows in every head, and for half as many again as it holds.
void KvCache::grow(int64_t layer_index, int64_t extra) {
  Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  Layer old = std::move(layer);
  RESTKV_CHECK(old.laid_out, "room in layer {} before refresh_lengths()", layer_index);
  layer = Layer{};
  layer.length = old.length;
  layer.known = old.known;
  layer.packed = old.packed;
  std::vector<int64_t> capacity = old.capacity;
  for (int64_t h = 0; h < heads_; ++h)
    capacity[h] = std::max(capacity[h], old.length[h] + extra + std::max<int64_t>(15, old.length[h] / 2));
  if (on_gpu() && heads_ > 0 && !layer.packed)
    capacity.assign(capacity.size(), *std::max_element(capacity.begin(), capacity.end()));  // see cache_rows.h
  allocate(layer, capacity);
  if (on_gpu() && layer.packed) {
    int64_t* first_rows = first_rows_.data<int64_t>() + layer_index * heads_;
    const Tensor now = ctx_->to_device(layer.first_row.data(), DType::i64, {heads_});
    gpu::move_ragged_rows(*ctx_, rows_of(old), first_rows, lengths_.data<int32_t>() + layer_index * heads_,
                          rows_of(layer), now.data<int64_t>(), heads_);
    ctx_->copy(first_rows, now.raw(), now.bytes());
  } else if (on_gpu()) {
    const int64_t length = old.length.empty() ? 0 : *std::max_element(old.length.begin(), old.length.end());
    gpu::move_rows(*ctx_, rows_of(old), length, rows_of(layer), first_rows_.data<int64_t>() + layer_index * heads_);
  } else {
    cpu::move_rows(rows_of(old), old.length, rows_of(layer));
  }
}

bool KvCache::ensure_room(int64_t n) {
  const auto is_full = [&](const Layer& held) {
    bool full = false;
    for (int64_t h = 0; h < heads_; ++h) full = full || held.length[h] + n > held.capacity[h];
    return full;
  };
  const auto may_be_full = [&](const Layer& held) { return !held.known && held.laid_out && is_full(held); };
  if (std::any_of(layers_.begin(), layers_.end(), may_be_full)) refresh_lengths();
  bool moved = false;
  for (int64_t layer = 0; layer < layers(); ++layer) {
    if (!is_full(layers_[static_cast<size_t>(layer)])) continue;
    grow(layer, n);
    moved = true;
  }
  return moved;
}

void KvCache::advance(int64_t n) {
  RESTKV_CHECK(on_gpu(), "rows of a CPU cache are appended by append()");
  for (Layer& layer : layers_)
    for (int64_t h = 0; h < heads_; ++h) {
      layer.length[h] += n;
      RESTKV_CHECK(layer.length[h] <= layer.capacity[h], "{} rows in room for {}", layer.length[h], layer.capacity[h]);
    }
}

void KvCache::refresh_lengths() {
  const bool known = std::all_of(layers_.begin(), layers_.end(), [](const Layer& layer) { return layer.known; });
  if (known) return;
  const std::vector<int32_t> lengths = ctx_->to_host<int32_t>(lengths_);
  auto next = lengths.begin();
  for (Layer& layer : layers_) {
    layer.length.assign(next, next + heads_);
    next += heads_;
    if (!layer.laid_out) settle_packed(layer);
    layer.known = true;
  }
}

KvView KvCache::view(int64_t layer_index) const {
  need_cpu(*ctx_, "KvCache::view");
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
  if (!layer.position.empty()) view.positions = layer.position.data<int32_t>();
  if (slots_) view.slots = layer.slot.data<int32_t>();
  return view;
}

DeviceKvLayer KvCache::device_layer(int64_t layer_index) const {
  RESTKV_CHECK(on_gpu(), "the device side of a CPU cache");
  const Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  return {layer.k.raw(),
          layer.v.raw(),
          layer.position.data<int32_t>(),
          first_rows_.data<int64_t>() + layer_index * heads_,
          lengths_.data<int32_t>() + layer_index * heads_,
          layer.sums.empty() ? nullptr : layer.sums.data<int64_t>(),
          slots_ ? layer.slot.data<int32_t>() : nullptr,
          slots_ ? totals_of(layer_index) : nullptr};
}

int64_t KvCache::length(int64_t layer_index, int64_t head) const {
  const Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  RESTKV_CHECK(layer.known, "the length of layer {} is not known before refresh_lengths()", layer_index);
  return layer.length.at(static_cast<size_t>(head));
}

std::vector<int64_t> KvCache::positions(int64_t layer_index, int64_t head) const {
  const int64_t count = length(layer_index, head);
  const Layer& layer = layers_.at(static_cast<size_t>(layer_index));
  const std::vector<int32_t> mine =
      ctx_->to_host<int32_t>(layer.position.rows(layer.first_row.at(static_cast<size_t>(head)), count));
  return {mine.begin(), mine.end()};
}

KvCache KvCache::clone() const {
  KvCache copy(*ctx_, layers(), heads_, d_, dtype_, slots_);
  auto duplicate = [&](const Tensor& from) {
    Tensor to = ctx_->empty(from.dtype(), from.shape());
    ctx_->copy(to.raw(), from.raw(), from.bytes());
    return to;
  };
  copy.sums_ = sums_;
  copy.layers_ = layers_;
  for (Layer& layer : copy.layers_)
    for (Tensor* t : {&layer.k, &layer.v, &layer.position, &layer.sums, &layer.slot})
      if (!t->empty()) *t = duplicate(*t);
  if (slots_) copy.totals_ = duplicate(totals_);
  if (on_gpu()) {
    copy.first_rows_ = duplicate(first_rows_);
    copy.lengths_ = duplicate(lengths_);
  }
  return copy;
}

int64_t KvCache::layers() const { return static_cast<int64_t>(layers_.size()); }

int64_t KvCache::heads() const { return heads_; }

int64_t KvCache::bytes() const {
  int64_t rows = 0;
  for (int64_t layer = 0; layer < layers(); ++layer)
    for (int64_t h = 0; h < heads_; ++h) rows += length(layer, h);
  return 2 * rows * d_ * size_of(dtype_);
}

int64_t KvCache::capacity_bytes() const {
  int64_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.k.bytes() + layer.v.bytes();
  return bytes;
}

void KvCache::clear() {
  if (on_gpu()) {
    ctx_->fill_zero(first_rows_.raw(), first_rows_.bytes());
    ctx_->fill_zero(lengths_.raw(), lengths_.bytes());
  }
  for (Layer& layer : layers_) {
    layer = Layer{};
    layer.length.assign(static_cast<size_t>(heads_), 0);
    allocate(layer, layer.length);
  }
  if (slots_) ctx_->fill_zero(totals_.raw(), totals_.bytes());
}

}  // namespace restkv
