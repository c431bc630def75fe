// How a layer's budget is dealt to its heads (AdaKV, NeurIPS 2025): a head gets as many tokens as it has scores above
// one cut through all heads of the layer, mixed with an even share.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/mix.h"
#include "dist/comm/communicator.h"
#include "kvcache/heads.h"
#include "kvcache/local_shard.h"

namespace restkv {

/// Past scores of one head beside the layer's cut.
struct CutCounts {
  int32_t above = 0;
  int32_t equal = 0;
};

/// CacheConfig::ada_floor in whole thousandths: budgets are integer arithmetic.
constexpr int64_t kFloorUnits = 1000;

/// What head h gets in kFloorUnits of a token: n_h (1 - f) + mean f, f = floor / kFloorUnits, where n_h is how many of
/// the layer's heads * mean largest scores are its own. Ties at the cut are dealt in turns of one, the lowest head
/// first, to the heads that have one left. Precondition: at most heads * mean scores are above the cut, and with those
/// equal to it they are at least as many.
RESTKV_HOST_DEVICE constexpr int64_t budget_share(const CutCounts* counts, int64_t heads, int64_t h, int64_t mean,
                                                  int64_t floor) {
  int64_t ties = heads * mean;
  for (int64_t i = 0; i < heads; ++i) ties -= counts[i].above;
  const auto in_turns = [&](int64_t i, int64_t turns) { return counts[i].equal < turns ? counts[i].equal : turns; };
  int64_t turns = 0, above = ties + 1;  // whole turns that the ties suffice for, and for which they do not
  while (turns + 1 < above) {
    const int64_t middle = (turns + above) / 2;
    int64_t dealt = 0;
    for (int64_t i = 0; i < heads; ++i) dealt += in_turns(i, middle);
    (dealt <= ties ? turns : above) = middle;
  }
  for (int64_t i = 0; i < heads; ++i) ties -= in_turns(i, turns);
  int64_t mine = counts[h].above + in_turns(h, turns);
  for (int64_t i = 0; i <= h && ties > 0; ++i)
    if (counts[i].equal > turns) {
      --ties;
      if (i == h) ++mine;
    }
  return mine * (kFloorUnits - floor) + mean * floor;
}

/// The budget of head h from the shares of all heads: rounded down, and up for as many heads as the sum asks for, those
/// with the largest remainders (ties to the lowest head).
RESTKV_HOST_DEVICE constexpr int64_t rounded_share(const int64_t* shares, int64_t heads, int64_t h) {
  int64_t spare = 0, before = 0;  // heads that are rounded up, and heads that come before this one
  const int64_t mine = shares[h] % kFloorUnits;
  for (int64_t i = 0; i < heads; ++i) {
    const int64_t theirs = shares[i] % kFloorUnits;
    spare += theirs;
    before += theirs > mine || (theirs == mine && i < h) ? 1 : 0;
  }
  return shares[h] / kFloorUnits + (before < spare / kFloorUnits ? 1 : 0);
}

/// The budgets of all heads; they sum to heads * mean.
std::vector<int64_t> deal_budget(const std::vector<CutCounts>& counts, int64_t mean, double floor);

/// CacheConfig::ada_floor in these units.
int64_t floor_units(double floor);

/// The rows, of the layer's, that the tensor rank with these heads contributes. A KV head that lies on several of them
/// is that of the one with its first query head.
Range owned_rows(const HeadLayout& heads, const HeadRange& local, bool per_query);

/// The most past tokens that a head can get, whatever the scores; P: past positions of the prompt.
int64_t most_head_budget(int64_t heads, int64_t mean, double floor, int64_t P);

struct HeadBudgets {
  Tensor tokens;     ///< u32 [rows] past tokens of each of this rank's rows of scores, on the context's device
  int64_t most = 0;  ///< no row of the layer has more: on CPU ranks the most of these, on GPU ranks most_head_budget()
};

/// The budgets of this rank's rows of scores (those of KV heads, or of query heads with `per_query`), mean times their
/// number over all of the layer's heads. scores [rows, shard.stride] f32. One exact cut through all heads and shards:
/// the same on every layout. Collective over `sequence` and `tensor`. On a GPU in stream order, without a wait.
HeadBudgets head_budgets(Context& ctx, Communicator& sequence, Communicator& tensor, const HeadLayout& heads,
                         bool per_query, const LocalShard& shard, const SequencePartition& partition,
                         const Tensor& scores, int64_t mean, double floor);

namespace gpu {  // head_budgets_gpu.cu
/// counts [heads]: the scores [heads, stride] at the past positions beside the key of *cut (a SelectCut).
void count_at_cut(Context& ctx, const float* scores, int64_t heads, int64_t stride, const std::vector<Segment>& past,
                  const void* cut, CutCounts* counts);
/// deal_budget() for the heads of `mine`: budgets [mine.size()].
void deal_budget(Context& ctx, const CutCounts* counts, int64_t heads, int64_t mean, int64_t floor_units, Range mine,
                 uint32_t* budgets);
}  // namespace gpu

}  // namespace restkv
