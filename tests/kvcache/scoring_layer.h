// One layer's scoring on one device, all sequence ranks one after another: what each op gives, in global order. The
// exchanges between ranks are done on the host.
#pragma once

#include <cmath>
#include <limits>

#include "kvcache/scores/reconstruction.h"
#include "kvcache/statistics/exchange.h"
#include "kvcache/statistics/window_attention.h"
#include "kvcache/statistics/window_logits.h"
#include "kvcache/statistics/window_output.h"
#include "tests/kvcache/random_case.h"

namespace restkv::testing {

struct ScoringShape {
  CaseShape shape;
  DType dtype = DType::f32;
  HeadRange local = {};  ///< empty: all heads
  RowReduction reduction = RowReduction::ema;
  double tau = 1.0;
  bool factors = true, normalize = false;

  HeadLayout heads() const {
    const HeadRange all{{0, shape.Hq}, {0, shape.Hkv}};
    return {shape.Hq, shape.Hkv, shape.d, local.q.empty() ? all : local};
  }
  SequencePartition partition(int ranks) const {
    return shape.block_size > 0 ? SequencePartition(shape.L, ranks, shape.block_size)
                                : SequencePartition(shape.L, ranks);
  }
};

/// Dense host arrays of the local heads; with bf16 the values are rounded to it.
struct ScoringInput {
  std::vector<float> q, k, v, r;  ///< [W, Hq_lc, d], [L, Hkv_lc, d] twice, [Hq_lc, d, d] upper triangular
};

inline ScoringInput scoring_input(const ScoringShape& s, uint32_t seed) {
  CacheConfig config;
  config.use_wo = false;
  const EvictionCase c = random_case("scoring", s.shape, config, seed);
  const HeadLayout heads = s.heads();
  const int64_t W = s.shape.W, L = s.shape.L, d = s.shape.d;
  ScoringInput in;
  for (int64_t w = 0; w < W; ++w)
    for (int64_t h = heads.local.q.begin; h < heads.local.q.end; ++h)
      in.q.insert(in.q.end(), &c.q[(h * W + w) * d], &c.q[(h * W + w) * d] + d);
  for (int64_t i = 0; i < L; ++i)
    for (int64_t g = heads.local.kv.begin; g < heads.local.kv.end; ++g) {
      in.k.insert(in.k.end(), &c.k[(g * L + i) * d], &c.k[(g * L + i) * d] + d);
      in.v.insert(in.v.end(), &c.v[(g * L + i) * d], &c.v[(g * L + i) * d] + d);
    }
  if (s.dtype == DType::bf16)
    for (std::vector<float>* x : {&in.q, &in.k, &in.v})
      for (float& e : *x) e = to_float(to_bf16(e));
  std::mt19937 random(seed + 1);
  std::normal_distribution<float> normal;
  in.r.assign(static_cast<size_t>(heads.Hq_lc() * d * d), 0.0f);
  for (int64_t h = 0; h < heads.Hq_lc(); ++h)  // rows of falling size, as factors of a real output projection have
    for (int64_t j = 0; j < d; ++j)
      for (int64_t k = j; k < d; ++k)
        in.r[(h * d + j) * d + k] = normal(random) * std::pow(0.97f, static_cast<float>(j));
  return in;
}

/// A copy on the context's device; bf16 when asked for, but on GPUs alone.
inline Tensor upload(Context& ctx, const std::vector<float>& values, Shape shape, DType dtype = DType::f32) {
  if (dtype == DType::f32 || ctx.device() == Device::cpu)
    return ctx.to_device(values.data(), DType::f32, std::move(shape));
  std::vector<bf16> half;
  for (float x : values) half.push_back(to_bf16(x));
  return ctx.to_device(half.data(), dtype, std::move(shape));
}

/// Poisoned, so that an element nobody writes is found.
inline Tensor output(Context& ctx, Shape shape) {
  int64_t count = 1;
  for (int64_t n : shape) count *= n;
  return upload(ctx, std::vector<float>(static_cast<size_t>(count), std::nanf("")), std::move(shape));
}

/// A rank's shard and its inputs on the device.
struct ScoringRank {
  LocalShard shard;
  Tensor k, v, logits, a;
};

class ScoringLayer {
 public:
  ScoringLayer(Context& ctx, const ScoringShape& s, const ScoringInput& in, int ranks)
      : ctx_(ctx), s_(s), heads_(s.heads()), partition_(s.partition(ranks)), slot_(block_slots(partition_)) {
    const int64_t W = s.shape.W, d = s.shape.d, row = heads_.Hkv_lc() * d;
    q_ = upload(ctx, in.q, {W, heads_.Hq_lc() * d}, s.dtype);
    r_ = upload(ctx, in.r, {heads_.Hq_lc(), d, d});
    for (int rank = 0; rank < ranks; ++rank) {
      ScoringRank local{make_local_shard(partition_, rank, W), {}, {}, {}, {}};
      std::vector<float> k, v;
      for (const Segment& segment : local.shard.all) {
        k.insert(k.end(), &in.k[segment.global * row], &in.k[segment.global * row] + segment.count * row);
        v.insert(v.end(), &in.v[segment.global * row], &in.v[segment.global * row] + segment.count * row);
      }
      local.k = upload(ctx, k, {local.shard.L_lc, row}, s.dtype);
      local.v = upload(ctx, v, {local.shard.L_lc, row}, s.dtype);
      ranks_.push_back(std::move(local));
    }
  }

  int64_t rows() const { return heads_.Hq_lc() * s_.shape.W; }
  const HeadLayout& heads() const { return heads_; }

  // Each call leaves its result in the public members below.
  void logits() {
    std::vector<float> gathered;
    for (ScoringRank& rank : ranks_) {
      rank.logits = output(ctx_, {rows(), rank.shard.stride});
      Tensor part = output(ctx_, {blocks(rank), rows() * 2});
      window_logits(ctx_, heads_, rank.shard, MatrixView(q_), MatrixView(rank.k), rank.logits.data<float>(),
                    part.data<float>());
      append(gathered, part);
    }
    logit_values = by_position(&ScoringRank::logits, rows());
    logit_partials = by_block(gathered, rows() * 2);
    Tensor all = upload(ctx_, gathered, {partition_.blocks(), rows() * 2});
    softmax_ = output(ctx_, {rows(), 2});
    fold_softmax(ctx_, all.data<float>(), slot_, rows(), softmax_.data<float>());
    softmax = ctx_.to_host<float>(softmax_);
  }

  void attention() {
    for (ScoringRank& rank : ranks_) {
      rank.a = output(ctx_, {heads_.Hq_lc(), rank.shard.stride});
      window_attention(ctx_, heads_, rank.shard, rank.logits.data<float>(), softmax_.data<float>(), s_.reduction, 0.3,
                       rank.a.data<float>());
    }
    a = by_position(&ScoringRank::a, heads_.Hq_lc());
  }

  void outputs() {
    const int64_t d = heads_.d;
    std::vector<float> past, window;
    for (ScoringRank& rank : ranks_) {
      Tensor part = output(ctx_, {blocks(rank), heads_.Hq_lc() * d});
      past_output_partials(ctx_, heads_, rank.shard, rank.a.data<float>(), MatrixView(rank.v), part.data<float>());
      append(past, part);
      part = output(ctx_, {blocks(rank), rows() * d});
      window_output_partials(ctx_, heads_, rank.shard, rank.logits.data<float>(), softmax_.data<float>(),
                             MatrixView(rank.v), part.data<float>());
      append(window, part);
    }
    past_partials = by_block(past, heads_.Hq_lc() * d);
    window_partials = by_block(window, rows() * d);
    past_outputs = fold(past, heads_.Hq_lc(), past_outputs_);
    window_outputs = fold(window, rows(), window_outputs_);
  }

  void scores() {
    const float* r = s_.factors ? r_.data<float>() : nullptr;
    const RowReduction rows_before = takes_all_ascending(s_.reduction) ? s_.reduction : RowReduction::ema;
    std::vector<Tensor> after, before;
    for (ScoringRank& rank : ranks_) {
      after.push_back(output(ctx_, {heads_.Hq_lc(), rank.shard.stride}));
      reconstruction_after(ctx_, heads_, rank.shard, rank.a.data<float>(), past_outputs_.data<float>(),
                           MatrixView(rank.v), r, s_.tau, after.back().data<float>());
      before.push_back(output(ctx_, {heads_.Hq_lc(), rank.shard.stride}));
      reconstruction_before(ctx_, heads_, rank.shard, rank.logits.data<float>(), softmax_.data<float>(),
                            window_outputs_.data<float>(), MatrixView(rank.v), r, {rows_before, 0.3, s_.normalize},
                            before.back().data<float>());
    }
    score_after = by_position(after, heads_.Hq_lc(), s_.shape.L - s_.shape.W);
    score_before = by_position(before, heads_.Hq_lc(), s_.shape.L - s_.shape.W);
  }

  // Takes another layer's results as the inputs of the ops that follow. One rank each.
  void continue_from(const ScoringLayer& other) {
    ScoringRank& mine = ranks_.at(0);
    const ScoringRank& theirs = other.ranks_.at(0);
    const auto copy = [&](const Tensor& from) { return upload(ctx_, other.ctx_.to_host<float>(from), from.shape()); };
    mine.logits = copy(theirs.logits);
    softmax_ = copy(other.softmax_);
    if (theirs.a.numel() > 0) mine.a = copy(theirs.a);
    if (other.past_outputs_.numel() > 0) past_outputs_ = copy(other.past_outputs_);
    if (other.window_outputs_.numel() > 0) window_outputs_ = copy(other.window_outputs_);
  }

  std::vector<float> logit_values, logit_partials, softmax;  ///< [rows, L], [blocks, rows, 2], [rows, 2]
  std::vector<float> a;                                      ///< [Hq_lc, L]
  std::vector<float> past_partials, past_outputs;            ///< [blocks, Hq_lc, d], [Hq_lc, d]
  std::vector<float> window_partials, window_outputs;        ///< [blocks, rows, d], [rows, d]
  std::vector<float> score_after, score_before;              ///< [Hq_lc, P]

 private:
  static int64_t blocks(const ScoringRank& rank) { return static_cast<int64_t>(rank.shard.blocks.size()); }

  void append(std::vector<float>& to, const Tensor& part) {
    const std::vector<float> values = ctx_.to_host<float>(part);
    to.insert(to.end(), values.begin(), values.end());
  }

  std::vector<float> by_block(const std::vector<float>& gathered, int64_t elements) const {
    std::vector<float> result;
    for (int64_t s : slot_) result.insert(result.end(), &gathered[s * elements], &gathered[s * elements] + elements);
    return result;
  }

  std::vector<float> fold(const std::vector<float>& gathered, int64_t rows, Tensor& result) {
    Tensor all = upload(ctx_, gathered, {partition_.blocks(), rows * heads_.d});
    result = output(ctx_, {rows, heads_.d});
    fold_outputs(ctx_, all.data<float>(), slot_, rows, heads_.d, result.data<float>());
    return ctx_.to_host<float>(result);
  }

  std::vector<float> by_position(Tensor ScoringRank::*member, int64_t rows) {
    std::vector<Tensor> local;
    for (ScoringRank& rank : ranks_) local.push_back(rank.*member);
    return by_position(local, rows, s_.shape.L);
  }

  // [rows, length] of [rows, stride] on every rank.
  std::vector<float> by_position(const std::vector<Tensor>& local, int64_t rows, int64_t length) {
    std::vector<float> result(static_cast<size_t>(rows * length));
    for (size_t n = 0; n < ranks_.size(); ++n) {
      const LocalShard& shard = ranks_[n].shard;
      const std::vector<float> values = ctx_.to_host<float>(local[n]);
      for (const Segment& segment : shard.all)
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t i = 0; i < segment.count && segment.global + i < length; ++i)
            result[row * length + segment.global + i] = values[row * shard.stride + segment.local + i];
    }
    return result;
  }

  Context& ctx_;
  ScoringShape s_;
  HeadLayout heads_;
  SequencePartition partition_;
  std::vector<int64_t> slot_;
  std::vector<ScoringRank> ranks_;
  Tensor q_, r_, softmax_, past_outputs_, window_outputs_;
};

}  // namespace restkv::testing
