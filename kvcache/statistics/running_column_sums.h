// Column sums of the causal softmax (column_sums.h) from queries that come run by run, for prompts whose queries are
// never held together.
#pragma once

#include "kvcache/statistics/column_sums.h"

namespace restkv {

/// sums [Hq_lc, L] (i64) += what the queries of `run` add. With all of a rank's runs, in any order, they are the sums
/// of column_sums(), bit for bit: the tiles that are added in f32 begin at multiples of 32 positions, and all above
/// them are integers.
///   run.local 0; run.global a multiple of 64; run.count rows of
///   prompt.q [count, Hq_lc * d] and prompt.lse [Hq_lc, count], dense;
///   prompt.k [L, Hkv_lc * d], of which the keys up to the last of the run's positions are read
/// Takes 8 Hq_lc (run.global + run.count) bytes in the meantime.
void add_column_sums(Context& ctx, const HeadLayout& heads, const Segment& run, const PromptQueries& prompt,
                     int64_t* sums);

namespace gpu {  // running_column_sums_gpu.cu
/// into [rows, ld]: the first n of every row += terms [rows, n].
void add_i64(Context& ctx, const int64_t* terms, int64_t rows, int64_t n, int64_t* into, int64_t ld);
}  // namespace gpu

}  // namespace restkv
