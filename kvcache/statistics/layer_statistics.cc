#include "kvcache/statistics/layer_statistics.h"

#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/statistics/bound_logits.h"
#include "kvcache/statistics/column_sums.h"
#include "kvcache/statistics/exchange.h"
#include "kvcache/statistics/window_logits.h"
#include "kvcache/statistics/window_output.h"

namespace restkv {

LayerStatistics::LayerStatistics(Context& ctx, Communicator& sequence, const HeadLayout& heads,
                                 const CacheConfig& config, const LayerKv& layer, int64_t past_budget)
    : ctx_(ctx),
      sequence_(sequence),
      heads_(heads),
      config_(config),
      layer_(layer),
      shard_(make_local_shard(*layer.partition, sequence.rank(), config.window)),
      slot_(block_slots(*layer.partition)),
      past_budget_(past_budget) {}

void LayerStatistics::compute_logits() {
  if (has_logits_ || rows() == 0) return;
  has_logits_ = true;  // a rank without positions has none, and makes the exchange once all the same
  const int64_t blocks = static_cast<int64_t>(shard_.blocks.size());
  logits_ = ctx_.empty(DType::f32, {rows(), shard_.stride});
  Tensor partials = ctx_.empty(DType::f32, {blocks, rows() * 2});
  window_logits(ctx_, heads_, shard_, layer_.q_window, layer_.k, logits_.data<float>(), partials.data<float>());
  if (!layer_.form.plain(shard_.L))
    bound_logits(ctx_, heads_, shard_, layer_.form, logits_.data<float>(), partials.data<float>());
  softmax_partials_ = begin_gather_blocks(ctx_, sequence_, *layer_.partition, partials, rows() * 2);
}

const float* LayerStatistics::logits() {
  compute_logits();
  return logits_.data<float>();
}

const float* LayerStatistics::softmax() {
  compute_logits();
  if (softmax_.numel() == 0 && rows() > 0) {
    const Tensor all = finish_gather_blocks(sequence_, softmax_partials_);
    softmax_ = ctx_.empty(DType::f32, {rows(), 2});
    fold_softmax(ctx_, all.data<float>(), slot_, rows(), softmax_.data<float>());
    softmax_partials_ = {};
  }
  return softmax_.data<float>();
}

Tensor LayerStatistics::attention(RowReduction reduction, double alpha, bool with_top_sets) {
  Tensor a = new_rows(heads_.Hq_lc());
  const auto run = [&](const CandidateLists* lists) {
    window_attention(ctx_, heads_, shard_, logits(), softmax(), reduction, alpha, a.data<float>(), lists);
  };
  const bool with_lists = with_top_sets && takes_all_ascending(reduction) && ctx_.device() == Device::gpu &&
                          rows() > 0 && shard_.W <= kMostListedRows;
  if (with_lists && sequence_.size() > 1) {
    begun_top_ = begin_group_select(ctx_, sequence_, logit_rows(), past_budget_, /*beside=*/true, run);
  } else if (with_lists) {
    top_sums_ = ctx_.empty(DType::i64, {rows()});
    top_ = select_top_beside(ctx_, sequence_, logit_rows(), past_budget_, top_sums_.data<int64_t>(), run);
  } else {
    run(nullptr);
  }
  return a;
}

Tensor LayerStatistics::column_scores() {
  Tensor made;
  const int64_t* sums = layer_.prompt.sums;
  if (sums == nullptr) {
    made = prompt_column_sums(ctx_, sequence_, heads_, *layer_.partition, layer_.prompt);
    sums = made.data<int64_t>();
  }
  Tensor scores = new_rows(heads_.Hq_lc());
  restkv::column_scores(ctx_, heads_, shard_, sums, scores.data<float>());
  return scores;
}

Tensor LayerStatistics::past_outputs(const Tensor& a) {
  const int64_t elements = heads_.Hq_lc() * heads_.d;
  Tensor partials = ctx_.empty(DType::f32, {static_cast<int64_t>(shard_.blocks.size()), elements});
  past_output_partials(ctx_, heads_, shard_, a.data<float>(), layer_.v, partials.data<float>());
  Tensor all = gather_blocks(ctx_, sequence_, *layer_.partition, partials, elements);
  Tensor o = ctx_.empty(DType::f32, {heads_.Hq_lc(), heads_.d});
  fold_outputs(ctx_, all.data<float>(), slot_, heads_.Hq_lc(), heads_.d, o.data<float>());
  return o;
}

const Tensor& LayerStatistics::window_outputs() {
  if (window_outputs_.numel() > 0 || rows() == 0) return window_outputs_;
  const int64_t elements = rows() * heads_.d;
  Tensor partials = ctx_.empty(DType::f32, {static_cast<int64_t>(shard_.blocks.size()), elements});
  window_output_partials(ctx_, heads_, shard_, logits(), softmax(), layer_.v, partials.data<float>());
  Tensor all = gather_blocks(ctx_, sequence_, *layer_.partition, partials, elements);
  window_outputs_ = ctx_.empty(DType::f32, {rows(), heads_.d});
  fold_outputs(ctx_, all.data<float>(), slot_, rows(), heads_.d, window_outputs_.data<float>());
  return window_outputs_;
}

void LayerStatistics::begin_top_sets() {
  if (!in_gpu_group() || rows() == 0 || begun_top_) return;
  begun_top_ = begin_group_select(ctx_, sequence_, logit_rows(), past_budget_, /*beside=*/true);
}

Tensor LayerStatistics::top_position_sums() {
  if (top_sums_.numel() > 0) return top_sums_;
  Tensor sums = ctx_.empty(DType::i64, {rows()});
  if (in_gpu_group()) {
    if (!begun_top_) begun_top_ = begin_group_select(ctx_, sequence_, logit_rows(), past_budget_, /*beside=*/false);
    top_ = finish_group_select(ctx_, sequence_, std::move(*begun_top_), sums.data<int64_t>());
    begun_top_.reset();
    return top_sums_ = sums;
  }
  top_ = select_top(ctx_, sequence_, logit_rows(), past_budget_, sums.data<int64_t>());
  if (sequence_.size() > 1) sequence_.all_reduce(sums.raw(), rows(), DType::i64, ReduceOp::sum);
  return sums;
}

SelectRows LayerStatistics::logit_rows() {
  SelectRows input{logits(), rows(), shard_.stride, &shard_.all, shard_.L};
  for (int rank = 0; rank < sequence_.size(); ++rank)
    input.most_local = std::max(input.most_local, layer_.partition->local_size(rank));
  return input;
}

void LayerStatistics::begin_gather_past(const Tensor& scores, int64_t reach) {
  past_ = restkv::begin_gather_past(ctx_, sequence_, *layer_.partition, shard_, scores, reach);
}

PastScores LayerStatistics::finish_gather_past() {
  PastScores all = restkv::finish_gather_past(ctx_, sequence_, *layer_.partition, shard_, past_);
  past_ = {};
  return all;
}

}  // namespace restkv
