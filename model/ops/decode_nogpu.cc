// The GPU versions of the ops of batched decode in a build without CUDA: never reached, as in ops_nogpu.cc.
#include "dist/base/error.h"
#include "model/ops/attention_decode.h"
#include "model/ops/cache_rope.h"
#include "model/ops/decode_exchange.h"
#include "model/ops/sample.h"

namespace restkv::gpu {
namespace {

[[noreturn]] void absent() { fail_runtime("an op on a GPU: this build has no CUDA backend"); }

}  // namespace

void attention_decode_batch(Context&, const BatchDecodeAttention&, const DecodeHeads&, const Tensor&) { absent(); }
void advance_decode(Context&, const DecodeAdvance&) { absent(); }
void rotate_cache_batch(Context&, const BatchCacheRotation&, const DecodeHeads&) { absent(); }
void merge_partial_attention(Context&, const PartialMerge&) { absent(); }
void sample_batch(Context&, const SampleBatch&) { absent(); }
void sum_into_stream(Context&, const PeerView&, const Tensor&, const Tensor&, const DecodeStream&, bool) { absent(); }
void exchange_and_merge(Context&, const PeerView&, const PartialExchange&) { absent(); }
void exchange_columns(Context&, const PeerView&, const ColumnExchange&) { absent(); }
void place_columns(Context&, const float*, int64_t, int64_t, float*, int64_t, int64_t) { absent(); }

}  // namespace restkv::gpu
