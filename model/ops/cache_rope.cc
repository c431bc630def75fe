#include "model/ops/cache_rope.h"

#include <algorithm>

#include "model/ops/dispatch.h"

namespace restkv {

void rotate_cache(Context& ctx, const KvView& cache, const Tensor& table, float* keys) {
  require_cpu_f32(ctx, "rotate_cache", {cache.dtype});
  RESTKV_CHECK(2 * table.size(2) == cache.d, "rope table {} for rows of {}", table.describe(), cache.d);
  for (int64_t h = 0; h < cache.heads; ++h) {
    const int64_t n = cache.lengths[h];
    if (n == 0) continue;
    // Slots ascend.
    const int64_t last = cache.slots != nullptr ? cache.slots[cache.head_offset[h] / cache.row_stride + n - 1] : n - 1;
    RESTKV_CHECK(last < table.size(0), "slot {} in a rope table of {}", last, table.size(0));
  }
  cpu::rotate_cache(ctx, cache, table.data<float>(), keys);
}

void rotate_queries(Context& ctx, float* q, const std::vector<int64_t>& head, const std::vector<int64_t>& slot,
                    int64_t d, const Tensor& table) {
  for (size_t i = 0; i < head.size(); ++i) {
    const int64_t at = slot.at(static_cast<size_t>(head[i]));
    apply_rope(ctx, MatrixView(q + static_cast<int64_t>(i) * d, 1, d), d, table.rows(at, 1));
  }
}

void rotate_cache_batch(Context& ctx, const BatchCacheRotation& args, const DecodeHeads& heads) {
  RESTKV_CHECK(on_gpu(ctx), "rotate_cache_batch has no version for {}", name_of(ctx.device()));
  const int64_t batch = args.q.rows;
  RESTKV_CHECK(args.d > 0 && args.d % 16 == 0, "rotate_cache_batch: head size {} (a multiple of 16)", args.d);
  RESTKV_CHECK(heads.cache_heads() >= 1 && heads.cache_heads() <= kMaxCacheHeads,
               "rotate_cache_batch: {} cache heads (1 to {})", heads.cache_heads(), kMaxCacheHeads);
  RESTKV_CHECK(batch >= 1 && batch <= kMaxAttentionBatch, "rotate_cache_batch: a batch of {} (1 to {})", batch,
               kMaxAttentionBatch);
  for (const MatrixView* m : {&args.q, &args.k, &args.v})
    RESTKV_CHECK(m->dtype == DType::bf16 && m->rows == batch && m->cols % args.d == 0 && m->ld % 8 == 0,
                 "rotate_cache_batch: rows are {}[{}, {}], bf16[{}, heads {}] with rows of 16 bytes needed",
                 name_of(m->dtype), m->rows, m->cols, batch, args.d);
  RESTKV_CHECK(args.q.cols == heads.Hq_lc() * args.d, "rotate_cache_batch: {} columns for {} query heads", args.q.cols,
               heads.Hq_lc());
  for (int64_t source : heads.source)
    RESTKV_CHECK(source >= 0 && source < args.k.cols / args.d, "rotate_cache_batch: KV head {} of {}", source,
                 args.k.cols / args.d);
  gpu::rotate_cache_batch(ctx, args, heads);
}

}  // namespace restkv
