// What a policy may know of one layer: window logits, attention, outputs, scores gathered over the ranks. Each is
// computed when first asked for, so a policy pays only for what it uses. The calls marked collective exchange data
// inside the sequence group: a policy makes them on every rank or on none.
#pragma once

#include <optional>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/communicator.h"
#include "kvcache/config.h"
#include "kvcache/evict.h"
#include "kvcache/local_shard.h"
#include "kvcache/select/group_select.h"
#include "kvcache/select/radix_select.h"
#include "kvcache/statistics/exchange.h"
#include "kvcache/statistics/window_attention.h"

namespace restkv {

class LayerStatistics {
 public:
  /// References and the layer's pointers outlive the object. past_budget: B - W.
  LayerStatistics(Context& ctx, Communicator& sequence, const HeadLayout& heads, const CacheConfig& config,
                  const LayerKv& layer, int64_t past_budget);

  Context& ctx() const { return ctx_; }
  const HeadLayout& heads() const { return heads_; }
  const CacheConfig& config() const { return config_; }
  const LayerKv& layer() const { return layer_; }
  const LocalShard& shard() const { return shard_; }
  int64_t past_budget() const { return past_budget_; }
  /// Uninitialised scores [rows, shard().stride] (f32).
  Tensor new_rows(int64_t rows) const { return ctx_.empty(DType::f32, {rows, shard_.stride}); }

  /// [Hq_lc * W, stride] (f32), see window_logits.h. Collective at the first call: begins an exchange beside what comes
  /// next, and softmax() ends it (a policy that asks for logits() asks for softmax() too).
  const float* logits();
  /// [Hq_lc * W, 2] (f32): maximum and 1 / sum of every row over all positions. Collective at the first call.
  const float* softmax();
  /// [Hq_lc, stride]: attention reduced over the window rows. Computed anew at each call; collective at the first.
  /// with_top_sets: top_position_sums() will be asked for too; a GPU then reads the logits once for both, and in a
  /// group their exchange begins here and runs beside what comes next.
  Tensor attention(RowReduction reduction, double alpha = 1.0, bool with_top_sets = false);
  /// [Hq_lc, stride] (f32): attention that the local positions get from all prompt queries. Collective.
  Tensor column_scores();
  /// [Hq_lc, d]: sum over the past of a[h, i] * v_i. Collective.
  Tensor past_outputs(const Tensor& a);
  /// [Hq_lc * W, d]: attention output of every window row over all positions. Collective at the first call.
  const Tensor& window_outputs();
  /// top_position_sums() will be asked for: in a group of GPU ranks its exchange begins here and runs beside what comes
  /// next. For policies that do not ask for attention(). Collective.
  void begin_top_sets();
  /// i64 [Hq_lc * W]: the sum of the positions of the past_budget() largest logits of every row, over all positions.
  /// Collective.
  Tensor top_position_sums();
  /// Rows of top_position_sums() whose cut fell into a tie, at the last call. Waits for the device.
  int64_t tied_rows() const { return top_.tied_rows(ctx_); }
  /// Begins to exchange the scores [rows, stride] of all ranks, beside what comes next; `reach`: how far from its own
  /// positions a rank will read them. Collective.
  void begin_gather_past(const Tensor& scores, int64_t reach);
  /// These scores, for pooling. Collective.
  PastScores finish_gather_past();

 private:
  // Their partials are on their way then; softmax() waits for those of the other ranks.
  void compute_logits();
  bool in_gpu_group() const { return ctx_.device() == Device::gpu && sequence_.size() > 1; }
  SelectRows logit_rows();
  int64_t rows() const { return heads_.Hq_lc() * shard_.W; }

  Context& ctx_;
  Communicator& sequence_;
  const HeadLayout& heads_;
  const CacheConfig& config_;
  const LayerKv& layer_;
  LocalShard shard_;
  std::vector<int64_t> slot_;
  bool has_logits_ = false;
  int64_t past_budget_;
  SelectResult top_;
  std::optional<GroupSelect> begun_top_;
  BlockGather softmax_partials_;
  PastGather past_;
  Tensor logits_, softmax_, window_outputs_, top_sums_;
};

}  // namespace restkv
