#include "model/ops/sample.h"

#include "model/ops/dispatch.h"

namespace restkv {

void sample_batch(Context& ctx, const SampleBatch& args) {
  RESTKV_CHECK(args.vocab > 0, "no logits to sample from");
  if (args.batch == 0) return;
  if (!on_gpu(ctx)) return cpu::sample_batch(ctx, args);
  RESTKV_CHECK(args.vocab <= kMaxSampleVocab, "sample_batch on a GPU: a vocabulary of {} (at most {})", args.vocab,
               kMaxSampleVocab);
  gpu::sample_batch(ctx, args);
}

}  // namespace restkv
