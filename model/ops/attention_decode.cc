#include "model/ops/attention_decode.h"

#include "model/ops/decode_splits.h"
#include "model/ops/dispatch.h"

namespace restkv {
namespace {

void check_heads(const DecodeHeads& heads) {
  RESTKV_CHECK(heads.cache_heads() >= 1 && heads.cache_heads() <= kMaxCacheHeads,
               "attention_decode_batch: {} cache heads (1 to {})", heads.cache_heads(), kMaxCacheHeads);
  std::vector<int64_t> group(heads.source.size(), 0);
  for (size_t i = 0; i < heads.head.size(); ++i) {
    int64_t h = heads.head[i];
    RESTKV_CHECK(h >= 0 && h < heads.cache_heads() && (i == 0 || h >= heads.head[i - 1]),
                 "attention_decode_batch: query head {} has cache head {} of {}, ascending ones needed", i, h,
                 heads.cache_heads());
    ++group[static_cast<size_t>(h)];
  }
  for (int64_t n : group)
    RESTKV_CHECK(n >= 1 && n <= kMaxDecodeGroup, "attention_decode_batch: {} query heads share a cache head (1 to {})",
                 n, kMaxDecodeGroup);
}

void check_rows(const MatrixView& x, const char* name, int64_t batch, int64_t cols) {
  RESTKV_CHECK(x.dtype == DType::bf16 && x.rows == batch && x.cols == cols && x.ld % 8 == 0,
               "attention_decode_batch: {} is {}[{}, {}], bf16[{}, {}] with rows of 16 bytes needed", name,
               name_of(x.dtype), x.rows, x.cols, batch, cols);
}

}  // namespace

void attention_decode(Context& ctx, const DecodeAttention& args, const KvView& kv) {
  require_cpu_f32(ctx, "attention_decode", {kv.dtype});
  cpu::attention_decode(ctx, args, kv);
}

Tensor decode_attention_scratch(Context& ctx, int64_t batch, const DecodeHeads& heads, int64_t d) {
  check_heads(heads);
  RESTKV_CHECK(batch >= 1 && batch <= kMaxAttentionBatch, "decode: a batch of {} (1 to {})", batch, kMaxAttentionBatch);
  // One counter per pair of sequence and cache head; per split and query head a maximum, a sum and an output row.
  int64_t counters = kMaxAttentionBatch * kMaxCacheHeads * int64_t{sizeof(uint32_t)};
  int64_t partials = batch * heads.Hq_lc() * max_decode_splits(heads.cache_heads());
  return ctx.zeros(DType::u8, {counters + partials * (d + 2) * int64_t{sizeof(float)}});
}

void attention_decode_batch(Context& ctx, const BatchDecodeAttention& args, const DecodeHeads& heads,
                            const Tensor& scratch) {
  RESTKV_CHECK(on_gpu(ctx), "attention_decode_batch has no version for {}", name_of(ctx.device()));
  check_heads(heads);
  int64_t batch = args.q.rows, kv_heads = args.k.cols / (args.d > 0 ? args.d : 1);
  RESTKV_CHECK(args.d > 0 && args.d % 8 == 0 && args.d <= 256,
               "attention_decode_batch: head size {} (a multiple of 8 up to 256)", args.d);
  RESTKV_CHECK(batch >= 1 && batch <= kMaxAttentionBatch, "attention_decode_batch: a batch of {} (1 to {})", batch,
               kMaxAttentionBatch);
  RESTKV_CHECK(args.sliding_window >= 0 && args.softcap >= 0.0, "attention_decode_batch: window {}, soft-cap {}",
               args.sliding_window, args.softcap);
  check_rows(args.q, "q", batch, heads.Hq_lc() * args.d);
  check_rows(args.k, "k", batch, kv_heads * args.d);
  check_rows(args.v, "v", batch, kv_heads * args.d);
  if (args.out.data != nullptr) check_rows(args.out, "out", batch, heads.Hq_lc() * args.d);
  for (int64_t source : heads.source)
    RESTKV_CHECK(source >= 0 && source < kv_heads, "attention_decode_batch: KV head {} of {}", source, kv_heads);
  gpu::attention_decode_batch(ctx, args, heads, scratch);
}

void advance_decode(Context& ctx, const DecodeAdvance& args) {
  RESTKV_CHECK(on_gpu(ctx), "advance_decode has no version for {}", name_of(ctx.device()));
  RESTKV_CHECK(args.prompt_tokens == nullptr || args.owner != nullptr, "advance_decode: prompt lengths without owners");
  if (args.batch > 0) gpu::advance_decode(ctx, args);
}

void merge_partial_attention(Context& ctx, const float* out, const float* lse, int64_t parts, int64_t Hq_lc, int64_t d,
                             float* merged) {
  if (on_gpu(ctx))
    merge_partial_attention(ctx, PartialMerge{out, lse, parts, Hq_lc * d, Hq_lc, Hq_lc, d, merged, nullptr});
  else
    cpu::merge_partial_attention(out, lse, parts, Hq_lc, d, merged);
}

void merge_partial_attention(Context& ctx, const PartialMerge& args) {
  RESTKV_CHECK(on_gpu(ctx), "merge_partial_attention of strided parts has no version for {}", name_of(ctx.device()));
  if (args.rows > 0) gpu::merge_partial_attention(ctx, args);
}

}  // namespace restkv
