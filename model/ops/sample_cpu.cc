#include "model/ops/sample.h"

namespace restkv::cpu {

void sample_batch(Context& ctx, const SampleBatch& args) {
  ctx.parallel_for(args.batch, [&](int64_t b) {
    std::span<const float> logits(args.logits + b * args.vocab, static_cast<size_t>(args.vocab));
    args.token[b] = sample(logits, args.sampling[b], static_cast<uint64_t>(args.step[b]));
  });
}

}  // namespace restkv::cpu
