// Query heads of one KV head on several ranks: every rank that has the KV head's rows decides for itself, so it needs
// the queries of the whole group, what the prompt left of them, and their output factors.
#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/decode/decode_evictor.h"

namespace restkv {
namespace {

int64_t most_heads(const DecodeLayout& layout) {
  int64_t most = 0;
  for (const HeadRange& range : layout.ranges) most = std::max(most, range.q.size());
  return most;
}

// What all ranks have of something of `elements` per query head: [ranks][most_heads, elements]. mine: of this rank's.
Tensor gather_heads(Context& ctx, const DecodeLayout& layout, const void* mine, int64_t elements, DType dtype) {
  const int64_t most = most_heads(layout), bytes = layout.mine.Hq_lc() * elements * size_of(dtype);
  Tensor own = ctx.zeros(dtype, {most, elements}), all = ctx.empty(dtype, {layout.heads->size(), most * elements});
  if (bytes > 0) ctx.copy(own.raw(), mine, bytes);
  layout.heads->all_gather(own.raw(), all.raw(), own.numel(), dtype);
  return all;
}

// Calls body(rank, first of its heads, first head of the span, heads) for what each rank has of the span.
template <class Body>
void for_parts(const DecodeLayout& layout, Range span, const Body& body) {
  for (size_t r = 0; r < layout.ranges.size(); ++r) {
    const Range q = layout.ranges[r].q, part = intersect(q, span);
    if (!part.empty()) body(static_cast<int64_t>(r), part.begin - q.begin, part.begin - span.begin, part.size());
  }
}

}  // namespace

// [rows, span * d] the last queries of the prompt, of whole groups.
Tensor DecodeEvictor::gather_window(const MatrixView& q) const {
  const int64_t d = layout_.mine.d, rows = q.rows, most = most_heads(layout_), element = size_of(q.dtype);
  const Range heads = span(), mine = layout_.mine.local.q;
  Tensor own = ctx_.zeros(q.dtype, {rows, most * d}),
         all = ctx_.empty(q.dtype, {layout_.heads->size() * rows, most * d}),
         joined = ctx_.empty(q.dtype, {rows, heads.size() * d});
  const int64_t first = (mine.begin - layout_.resident.q.begin) * d;
  for (int64_t w = 0; w < rows && !mine.empty(); ++w)
    ctx_.copy(own.rows(w, 1).raw(), q.block(w, 1, first, mine.size() * d).data, mine.size() * d * element);
  layout_.heads->all_gather(own.raw(), all.raw(), own.numel(), q.dtype);
  for_parts(layout_, heads, [&](int64_t rank, int64_t from, int64_t to, int64_t count) {
    for (int64_t w = 0; w < rows; ++w)
      ctx_.copy(static_cast<char*>(joined.rows(w, 1).raw()) + to * d * element,
                static_cast<const char*>(all.rows(rank * rows + w, 1).raw()) + from * d * element, count * d * element);
  });
  return joined;
}

// Of every rank's own query heads to those of the whole group. sums [rows] i64 of the one KV head here, whose rows
// other ranks have in the same order; most: no layer has more rows. Collective also without a head.
void DecodeEvictor::add_group_sums(int64_t* sums, int64_t rows, int64_t most) const {
  const Range kv = layout_.mine.local.kv;
  RESTKV_CHECK(kv.size() <= 1 && rows <= most, "{} KV heads of {} rows (at most {})", kv.size(), rows, most);
  Tensor all = ctx_.zeros(DType::i64, {layout_.mine.Hkv, most});
  const int64_t bytes = rows * static_cast<int64_t>(sizeof(int64_t));
  if (!kv.empty()) ctx_.copy(all.rows(kv.begin, 1).raw(), sums, bytes);
  layout_.heads->all_reduce(all.raw(), all.numel(), DType::i64, ReduceOp::sum);
  if (!kv.empty()) ctx_.copy(sums, all.rows(kv.begin, 1).raw(), bytes);
}

// Rows that a head can have after a prompt of L tokens.
int64_t DecodeEvictor::most_after_prompt(int64_t L) const {
  const int64_t B = config_.budget.resolve(L);
  return std::min(L, B * (deals_to_layers(config_.allocation) ? 2 : 1) *
                         (deals_to_heads(config_.allocation) ? layout_.mine.Hkv : 1));
}

void DecodeEvictor::gather_factors(int64_t layer, const float* r) const {
  if (r == nullptr || has_factors_) return;  // the same on all ranks, those without heads too
  factors_.resize(static_cast<size_t>(layers_));
  Tensor& joined = factors_[static_cast<size_t>(layer)];
  const int64_t d = layout_.mine.d, matrix = d * d;
  const Range heads = span(), mine = layout_.mine.local.q;
  const Tensor all =
      gather_heads(ctx_, layout_, r + (mine.begin - layout_.resident.q.begin) * matrix, matrix, DType::f32);
  joined = ctx_.empty(DType::f32, {heads.size(), matrix});
  for_parts(layout_, heads, [&](int64_t rank, int64_t from, int64_t to, int64_t count) {
    ctx_.copy(joined.rows(to, count).raw(), all.rows(rank, 1).data<float>() + from * matrix,
              count * matrix * size_of(DType::f32));
  });
  has_factors_ = layer + 1 == layers_;
}

GatheredQueries DecodeEvictor::gathered_queries(int64_t slots) const {
  GatheredQueries g;
  if (!gathers_queries()) return g;
  const int64_t d = layout_.mine.d, words = layers_ * slots * most_heads(layout_) * (d / 2 + 1), heads = span().size();
  g.message = ctx_.empty(DType::i32, {words});
  g.messages = ctx_.empty(DType::i32, {words * layout_.heads->size()});
  g.q = ctx_.empty(DType::bf16, {layers_ * slots, heads * d});
  g.lse = ctx_.empty(DType::f32, {layers_ * slots, heads});
  return g;
}

void DecodeEvictor::gather_step_queries(const GatheredQueries& g, const void* q, const float* lse, int64_t slots,
                                        int64_t count) const {
  StepQueries shape{layers_, slots, count, layout_.mine.Hq_lc(), most_heads(layout_), layout_.mine.d};
  const Range heads = span();
  RESTKV_CHECK(heads.size() <= QuerySources::kMost, "{} query heads share the KV heads of a rank (at most {})",
               heads.size(), QuerySources::kMost);
  gpu::pack_queries(ctx_, shape, q, lse, g.message.data<int32_t>());
  layout_.heads->all_gather(g.message.raw(), g.messages.raw(), shape.words(), DType::i32);
  QuerySources sources;
  for_parts(layout_, heads, [&](int64_t rank, int64_t from, int64_t to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      sources.rank[to + i] = static_cast<int16_t>(rank);
      sources.head[to + i] = static_cast<int16_t>(from + i);
    }
  });
  sources.count = static_cast<int32_t>(heads.size());
  gpu::unpack_queries(ctx_, shape, sources, g.messages.data<int32_t>(), g.q.raw(), g.lse.data<float>());
}

}  // namespace restkv
