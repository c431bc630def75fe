// The GPU versions of the ops in a build without CUDA. A context cannot be on a GPU there, so none of these is reached.
#include "dist/base/error.h"
#include "model/ops/add.h"
#include "model/ops/attention_prefill.h"
#include "model/ops/embedding.h"
#include "model/ops/merge_attention.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope.h"
#include "model/ops/softcap.h"
#include "model/ops/swiglu.h"

namespace restkv::gpu {
namespace {

[[noreturn]] void absent() { fail_runtime("an op on a GPU: this build has no CUDA backend"); }

}  // namespace

void rms_norm(Context&, const MatrixView&, const float*, const MatrixView&, double) { absent(); }
void swiglu(Context&, const MatrixView&, const MatrixView&) { absent(); }
void geglu(Context&, const MatrixView&, const MatrixView&) { absent(); }
void add(Context&, const MatrixView&, const MatrixView&) { absent(); }
void rope_table(Context&, const float*, const int64_t*, int64_t, int64_t, float, float*) { absent(); }
void apply_rope(Context&, const MatrixView&, int64_t, const float*) { absent(); }
void embed(Context&, const Tensor&, Range, const int32_t*, const MatrixView&, float) { absent(); }
void softcap(Context&, float*, int64_t, float) { absent(); }
void attention_prefill(Context&, const PrefillAttention&, const KvView&, const HeadLayout&) { absent(); }
void merge_attention(Context&, const AttentionPart&, const AttentionTotal&, int64_t, const MatrixView&) { absent(); }

}  // namespace restkv::gpu
