#include "model/prefill_state.h"

#include <algorithm>

#include "model/ops/attention_prefill.h"
#include "model/ops/rope.h"

namespace restkv {

Transformer::PrefillState::PrefillState(Transformer& model, int64_t L, const PrefillOptions& options)
    : partition(L, model.grid_.sequence_size()),
      L_lc(partition.local_size(model.grid_.sequence_rank())),
      chunk(options.chunk),
      parts(prefill_parts(partition, model.grid_.sequence_rank())),
      chunks(chunk > 0 ? prefill_chunks(partition, model.grid_.sequence_rank(), chunk) : std::vector<PrefillPart>{}),
      held(chunk > 0 ? largest_chunk(chunks) : L_lc),
      slice(std::max<int64_t>(1, std::min(prefill_slice_rows(model.ctx_.device()), held))),
      clock(model.ctx_),
      evicts(model.evictor_->evicts(L)) {
  Context& ctx = model.ctx_;
  const ModelConfig& config = model.config_;
  const Shard& shard = model.plan_.resident;
  const DType dtype = model.activation_;
  const int64_t q_width = shard.heads.Hq_lc() * config.d, kv_width = shard.heads.Hkv_lc() * config.d;
  // In f32 on GPUs too: it takes two roundings a layer, which would add up over the layers.
  if (options.host_residual && chunks.size() > 1)  // one pass embeds, each layer takes two
    residual = std::make_unique<HostResidual>(ctx, model.residual_home(L_lc), chunks, 1 + 2 * config.layers);
  else
    x = ctx.empty(DType::f32, {L_lc, config.hidden});
  q = ctx.empty(dtype, {held, q_width});
  attended = q;
  keeps_queries = model.needs_prompt_queries(L);
  if (keeps_queries) {
    attended = ctx.empty(dtype, {held, q_width});
    lse = ctx.empty(DType::f32, {shard.heads.Hq_lc(), held});
    if (chunked()) column_sums = ctx.empty(DType::i64, {shard.heads.Hq_lc(), L});
  }
  kv = ctx.empty(dtype, {2 * L_lc, kv_width});
  k = kv.rows(0, L_lc);
  v = kv.rows(L_lc, L_lc);
  normed = ctx.empty(dtype, {slice, config.hidden});
  gate_up = ctx.empty(dtype, {slice, 2 * shard.mlp.size()});
  activated = ctx.empty(dtype, {slice, shard.mlp.size()});
  if (model.grid_.tensor_size() > 1 || config.traits.output_norms)
    for (Tensor& term : terms) term = ctx.empty(model.sum_dtype_, {slice, config.hidden});
  const int rank = model.grid_.sequence_rank();
  for (int64_t i = 0; i < L_lc; ++i) positions.push_back(partition.global_position(rank, i));
  position_ids = ctx.to_device(positions.data(), DType::i64, {L_lc});
  const std::vector<float> inverse = model.frequencies_at(L);
  frequencies = ctx.to_device(inverse.data(), DType::f32, {static_cast<int64_t>(inverse.size())});
  rope = ctx.empty(DType::f32, {held, 2, config.d / 2});
  if (!chunked()) fill_rope_table(ctx, frequencies, position_ids, config.rope.attention_factor, rope);
  for (int64_t g = 0; g < shard.heads.Hkv_lc(); ++g) kv_offsets.push_back(g * config.d);
  if (model.window_queries(L) > 0) allocate_window(model);
  allocate_context(model);
  const int64_t cache_heads =
      model.cache_config_.granularity == Granularity::query_head ? config.Hq : config.Hkv;  // of the model
  local_counts = ctx.zeros(DType::i64, {config.layers * cache_heads});
  local_hash = ctx.zeros(DType::u64, {1});
}

void Transformer::PrefillState::allocate_window(const Transformer& model) {
  const int64_t L = partition.length(), W = model.window_queries(L);
  q_window = model.ctx_.empty(q.dtype(), {W, q.size(1)});
  if (partition.ranks() == 1) return;
  const auto chunks = partition.chunks_of(model.grid_.sequence_rank());
  for (int half : {0, 1}) {
    const int64_t rows = intersect(chunks[half], {L - W, L}).size();
    if (rows > 0) q_own[half] = model.ctx_.empty(q.dtype(), {rows, q.size(1)});
  }
}

// Once for all layers: what one layer's exchange writes, the layer before has read.
void Transformer::PrefillState::allocate_context(const Transformer& model) {
  Context& ctx = model.ctx_;
  const int ranks = partition.ranks();
  if (ranks == 1) {
    k_all = k;  // one rank's local order is the global order: views, no copies
    v_all = v;
    return;
  }
  if (model.context_ == ContextPlan::allgather) {
    k_all = ctx.empty(k.dtype(), {partition.length(), k.size(1)});
    // The lower chunks are attended before the upper ones are here. No kernel visits keys that all its rows are masked
    // from, but a tile of keys that reached over a chunk's edge would take 0 times what lies there: no NaN may.
    v_all = ctx.zeros(k.dtype(), {partition.length(), k.size(1)});
    return;
  }
  int64_t most = 0;
  for (int r = 0; r < ranks; ++r) most = std::max(most, partition.local_size(r));
  for (int i = 0; i < std::min(ranks - 1, 2); ++i) ring[i] = ctx.empty(k.dtype(), {2 * most, k.size(1)});
  const int64_t rows = std::min(kAttentionRows, L_lc), heads = model.plan_.resident.heads.Hq_lc();
  block_out = ctx.empty(q.dtype(), {rows, q.size(1)});
  block_lse = ctx.empty(DType::f32, {heads, rows});
  total_out = ctx.empty(DType::f32, {L_lc, q.size(1)});
  total_lse = ctx.empty(DType::f32, {heads, L_lc});
}

}  // namespace restkv
