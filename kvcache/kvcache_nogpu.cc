// The GPU versions of the scoring ops in a build without CUDA. A context cannot be on a GPU there, so none of these is
// reached.
#include "dist/base/error.h"
#include "kvcache/head_budgets.h"
#include "kvcache/scores/group_mean.h"
#include "kvcache/scores/key_norms.h"
#include "kvcache/scores/ladder_scores.h"
#include "kvcache/scores/position_scores.h"
#include "kvcache/scores/random_scores.h"
#include "kvcache/scores/reconstruction.h"
#include "kvcache/statistics/bound_logits.h"
#include "kvcache/statistics/column_sums.h"
#include "kvcache/statistics/exchange.h"
#include "kvcache/statistics/running_column_sums.h"
#include "kvcache/statistics/window_attention.h"
#include "kvcache/statistics/window_logits.h"
#include "kvcache/statistics/window_output.h"

namespace restkv::gpu {
namespace {

[[noreturn]] void absent() { fail_runtime("scoring on a GPU: this build has no CUDA backend"); }

}  // namespace

void window_logits(Context&, const HeadLayout&, const LocalShard&, const MatrixView&, const MatrixView&, float*,
                   float*) {
  absent();
}
void bound_logits(Context&, const HeadLayout&, const LocalShard&, const AttentionForm&, float*, float*) { absent(); }
void fold_softmax(Context&, const float*, const std::vector<int64_t>&, int64_t, float*) { absent(); }
void window_attention(Context&, const HeadLayout&, const LocalShard&, const float*, const float*, RowReduction, double,
                      float*) {
  absent();
}
void window_attention(Context&, const HeadLayout&, const LocalShard&, const float*, const float*, RowReduction, double,
                      float*, const CandidateLists&) {
  absent();
}
void past_output_partials(Context&, const HeadLayout&, const LocalShard&, const float*, const MatrixView&, float*) {
  absent();
}
void window_output_partials(Context&, const HeadLayout&, const LocalShard&, const float*, const float*,
                            const MatrixView&, float*) {
  absent();
}
void fold_outputs(Context&, const float*, const std::vector<int64_t>&, int64_t, int64_t, float*) { absent(); }
void pack_edges(Context&, const LocalShard&, const float*, int64_t, int64_t, float*) { absent(); }
void copy_rows(Context&, const float*, int64_t, float*, int64_t, int64_t, int64_t) { absent(); }
void reconstruction_after(Context&, const HeadLayout&, const LocalShard&, const float*, const float*, const MatrixView&,
                          const float*, double, float*) {
  absent();
}
void reconstruction_before(Context&, const HeadLayout&, const LocalShard&, const float*, const float*, const float*,
                           const MatrixView&, const float*, const BeforeOptions&, float*) {
  absent();
}
void group_mean(Context&, const std::vector<std::vector<const float*>>&, int64_t, int64_t, float*) { absent(); }
void key_norms(Context&, const HeadLayout&, const LocalShard&, const MatrixView&, float*) { absent(); }
void column_sums(Context&, const HeadLayout&, const LocalShard&, const PromptQueries&, int64_t*) { absent(); }
void add_i64(Context&, const int64_t*, int64_t, int64_t, int64_t*, int64_t) { absent(); }
void column_scores(Context&, const HeadLayout&, const LocalShard&, const int64_t*, float*) { absent(); }
void ladder_scores(Context&, const LocalShard&, const LadderCuts&, float*) { absent(); }
void position_scores(Context&, const LocalShard&, int64_t, float*) { absent(); }
void count_at_cut(Context&, const float*, int64_t, int64_t, const std::vector<Segment>&, const void*, CutCounts*) {
  absent();
}
void deal_budget(Context&, const CutCounts*, int64_t, int64_t, int64_t, Range, uint32_t*) { absent(); }
void random_scores(Context&, const HeadLayout&, const LocalShard&, uint64_t, int64_t, float*) { absent(); }

}  // namespace restkv::gpu
