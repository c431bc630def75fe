// The next token of every sequence of a batch, chosen on the device: sample() of model/sampler.h, to the bit.
#pragma once

#include <cstdint>

#include "dist/base/context.h"
#include "model/sampler.h"

namespace restkv {

/// All pointers on ctx's device; nothing of it is known to the host, so that it can be captured.
struct SampleBatch {
  const float* logits = nullptr;  ///< [batch, vocab]
  int64_t batch = 0, vocab = 0;
  const SequenceSampling* sampling = nullptr;  ///< [batch]
  const int32_t* step = nullptr;               ///< [batch] tokens sampled so far
  int32_t* token = nullptr;                    ///< [batch] the result
};

inline constexpr int64_t kMaxSampleVocab = 262144;  ///< on GPUs

void sample_batch(Context& ctx, const SampleBatch& args);

namespace cpu {
void sample_batch(Context& ctx, const SampleBatch& args);
}  // namespace cpu
namespace gpu {
void sample_batch(Context& ctx, const SampleBatch& args);
}  // namespace gpu

}  // namespace restkv
