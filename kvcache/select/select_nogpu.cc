// The GPU versions of selection and smoothing in a build without CUDA. A context cannot be on a GPU there, so none of
// these is reached.
#include "dist/base/error.h"
#include "kvcache/scores/drift.h"
#include "kvcache/scores/pooling.h"
#include "kvcache/select/radix_pass.h"

namespace restkv::gpu {
namespace {

[[noreturn]] void absent() { fail_runtime("selection on a GPU: this build has no CUDA backend"); }

}  // namespace

void select_top(Context&, const SelectRows&, const uint32_t*, uint32_t, SelectCut*, int32_t*, int64_t*,
                const ReadValues&) {
  absent();
}
void list_top(Context&, const SelectRows&, int64_t, uint64_t*, int64_t, const ReadValues&) { absent(); }
void resolve_union(Context&, const uint64_t*, int, int64_t, int64_t, const uint32_t*, uint32_t, SelectCut*, int32_t*,
                   int64_t*) {
  absent();
}
void top_set_sums(Context&, const SelectRows&, const SelectCut*, int64_t*) { absent(); }
void top_set_rows(Context&, const SelectRows&, const SelectCut*, Range, int64_t, int32_t*, int32_t*) { absent(); }
void pool_scores(Context&, const LocalShard&, const PastScores&, int64_t, PoolEdge, const PoolWindow*, float*) {
  absent();
}
void equal_windows(Context&, int64_t, PoolWindow, PoolWindow*) { absent(); }
void adaptive_windows(Context&, const Tensor&, int64_t, int64_t, int64_t, double, const AdaptiveWindows&) { absent(); }

}  // namespace restkv::gpu
