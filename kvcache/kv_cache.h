// The cache of one rank: per layer and cache head a run of rows (k, v, position), of any length.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/gemm.h"
#include "kvcache/cache_rows.h"
#include "kvcache/device_kv.h"
#include "kvcache/kept_rows.h"
#include "kvcache/kv_view.h"

namespace restkv {

/// On a GPU everything but the bookkeeping lives on the device, and decode kernels append rows there (device_layer());
/// the host hears of it by advance(), cut() and cut_at_most(). Lengths are then known to the host at once when
/// KeptRows::known is, and after refresh_lengths() otherwise; until then it has what they are at most. Heads of a layer
/// have equal room there, but where their counts differ and their sum is bounded (KeptRows::together): these follow
/// each other, and take what they have and the reserve.
class KvCache {
 public:
  /// `heads`: cache heads per layer on this rank; d: head size; dtype of k and v (f32 or bf16). With `slots` rows carry
  /// their place among those of other ranks (slots.h).
  KvCache(Context& ctx, int64_t layers, int64_t heads, int64_t d, DType dtype, bool slots = false);
  KvCache(KvCache&&) = default;
  KvCache& operator=(KvCache&&) = default;
  KvCache(const KvCache&) = delete;  // two caches must not append to the same rows: clone()
  KvCache& operator=(const KvCache&) = delete;

  Context& context() const { return *ctx_; }

  /// GPU ranks: every row has a sum as well (DeviceKvLayer::sums), which moves with it; whoever stores or appends rows
  /// sets theirs. Precondition: the cache is empty.
  void keep_sums();

  /// The same content in memory of its own. In stream order.
  KvCache clone() const;

  /// Replaces a layer's content by the kept rows of each head, with room for `reserve` more rows per head.
  /// k, v [n, kv_heads * d] token-major; source_head[h] names the column that cache head h copies from;
  /// positions [n] (i32 or i64) global positions of the n rows, below 2^31. In stream order.
  void store(int64_t layer, const MatrixView& k, const MatrixView& v, int64_t kv_heads,
             const std::vector<int64_t>& source_head, const Tensor& positions, const KeptRows& kept, int64_t reserve);

  /// GPU ranks: replaces a layer's content by `length` rows per head, which the caller writes in stream order (the
  /// record says where), with room for `reserve` more.
  DeviceKvLayer make_rows(int64_t layer, int64_t length, int64_t reserve);

  /// The same where heads have counts of their own: head h of this cache gets the sum of counts[part][first + h] rows
  /// over all parts (i32 [parts, any], on the device), all heads together at most `together`, each at most `most`.
  DeviceKvLayer make_ragged_rows(int64_t layer, const Tensor& counts, int64_t first, int64_t most, int64_t together,
                                 int64_t reserve);

  /// CPU ranks: appends one row per head. k, v [kv_heads, d]; cache head h copies from column source_head[h].
  /// Grows the storage when the reserve is used up (amortised).
  void append(int64_t layer, const void* k, const void* v, const int64_t* source_head, int64_t position);

  /// CPU ranks, with slots: every rank counts a new row in all heads, after its owner appended it.
  void count_new_row(int64_t layer);

  /// CPU ranks: drops all rows of a head but `rows` (ascending). The storage stays for what is appended next.
  void retain(int64_t layer, int64_t head, const std::vector<int32_t>& rows);

  /// CPU ranks: valid until the next store, append, ensure_room or clear of that layer.
  KvView view(int64_t layer) const;

  /// GPU ranks: where decode kernels read and append; lengths are advanced by them. Valid as long as a view.
  DeviceKvLayer device_layer(int64_t layer) const;
  /// GPU ranks: a decode kernel appended n rows to every head of every layer. Precondition: there was room.
  void advance(int64_t n);
  /// GPU ranks: a kernel leaves `rows` rows of a head, not more than there were.
  void cut(int64_t layer, int64_t head, int64_t rows);
  /// GPU ranks: a kernel leaves at most `rows` rows of a head; how many only the device knows, until refresh_lengths().
  void cut_at_most(int64_t layer, int64_t head, int64_t rows);
  /// Grows the storage where one of the heads has room for less than n more rows (a copy on the device, amortised).
  /// Where that depends on lengths that are not known here it fetches them first (a wait). Returns whether any layer's
  /// storage moved.
  bool ensure_room(int64_t n);
  /// Fetches all lengths from the device, where they are not known here: one wait for all layers.
  void refresh_lengths();

  /// Precondition, for these and bytes(): the lengths are known (above).
  int64_t length(int64_t layer, int64_t head) const;
  /// Global positions of a head's rows, in storage order; waits for the device.
  std::vector<int64_t> positions(int64_t layer, int64_t head) const;

  bool has_slots() const { return slots_; }
  /// CPU ranks: rows of a head over all ranks that share its rows, the slot of the next one.
  int64_t next_slot(int64_t layer, int64_t head) const;
  /// Rows that a layer's storage has room for, over all heads: those that a view of it may reach.
  int64_t storage_rows(int64_t layer) const;

  int64_t layers() const;
  int64_t heads() const;
  DType dtype() const { return dtype_; }
  /// Bytes of k and v: of the rows in use, and of the storage held.
  int64_t bytes() const;
  int64_t capacity_bytes() const;

  void clear();

  /// For slots.h: where slots and totals of a layer lie (on the rank's device).
  int32_t* slots_of(int64_t layer) const;
  int32_t* totals_of(int64_t layer) const;

 private:
  struct Layer {
    Tensor k, v;                     // [sum of capacity, d]
    Tensor position;                 // i32 [sum of capacity]
    Tensor sums;                     // i64 [sum of capacity], with keep_sums()
    Tensor slot;                     // i32 [sum of capacity] with slots, else empty
    std::vector<int64_t> first_row;  // [heads]
    std::vector<int64_t> offset;     // [heads] elements to row 0
    std::vector<int64_t> length;     // [heads] rows in use; the most there can be while it is not known
    std::vector<int64_t> capacity;   // [heads] rows
    bool known = true;
    bool packed = false;   // GPU: heads follow each other
    bool laid_out = true;  // whether the host knows where heads begin: a packed layer's after its lengths have come
    int64_t reserve = 0;   // of a packed layer, until then
  };
  bool on_gpu() const { return ctx_->device() == Device::gpu; }
  CacheRows rows_of(const Layer& layer) const;
  void allocate(Layer& layer, const std::vector<int64_t>& capacity);
  void allocate_rows(Layer& layer, int64_t rows);
  void begin_packed(Layer& layer, int64_t most, int64_t together, int64_t reserve);
  void lay_out(Layer& layer, const std::vector<int64_t>& capacity);
  void settle_packed(Layer& layer);
  void grow(int64_t layer_index, int64_t extra);

  Context* ctx_;
  int64_t heads_;
  int64_t d_;
  DType dtype_;
  bool slots_;
  bool sums_ = false;
  std::vector<Layer> layers_;
  Tensor first_rows_;  // GPU: i64 [layers, heads], what Layer::first_row says
  Tensor lengths_;     // GPU: i32 [layers, heads]
  Tensor totals_;      // i32 [layers, heads] rows of all ranks; with slots
};

}  // namespace restkv
