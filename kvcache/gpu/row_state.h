// What the kernels of the top-k selection hand on from one to the next. Internal to kvcache/select.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kvcache/gpu/row_keys.h"
#include "kvcache/gpu/runs.h"
#include "kvcache/select/radix_select.h"

namespace restkv::gpu {

inline constexpr int kCandidates = 4096;  ///< listed per row at most

/// Of one row, after its values were looked at once. Candidates are not above `high`, and at least `low`.
struct RowState {
  float low, high;
  uint32_t candidates;          ///< more than kCandidates when they were not all listed
  uint32_t above;               ///< values above `high`
  unsigned long long position;  ///< sum of their global positions

  /// Whether the k-th largest value is certainly among the listed ones.
  __device__ bool lists(uint32_t k) const { return candidates <= kCandidates && above < k && k <= above + candidates; }
};

/// A value's place among all of its row: larger value first, then the lower position. No two are equal.
__device__ inline uint64_t rank_of(float value, int64_t position) {
  return static_cast<uint64_t>(key_of(value)) << 32 | (0xffffffffu - static_cast<uint32_t>(position));
}
__device__ inline uint32_t key_in(uint64_t rank) { return static_cast<uint32_t>(rank >> 32); }
__device__ inline uint32_t position_in(uint64_t rank) { return 0xffffffffu - static_cast<uint32_t>(rank); }

/// The rows of a selection, for kernels.
struct RowValues {
  const float* values;
  int64_t stride;
  Runs runs;
  const uint32_t* k_of_row;  ///< null: k_all for every row
  uint32_t k_all;

  __device__ uint32_t k(int64_t row) const { return k_of_row != nullptr ? k_of_row[row] : k_all; }
  __device__ const float* row(int64_t index) const { return values + index * stride; }
};

/// Where results go; sums and top may be null.
struct RowResults {
  SelectCut* cuts;
  int32_t* tied;
  int64_t* sums;
  uint64_t* top = nullptr;   ///< [rows, top_capacity] the ranks of a row's top set, in no order; k each
  int64_t top_capacity = 0;  ///< no k is larger
};

/// resolve_gpu.cu: cuts (and sums) from the listed candidates, and for the rows whose list does not do, from all
/// values. states and candidates [rows, kCandidates] are null when rows have at most kCandidates values.
void resolve(Context& ctx, int64_t rows, const RowValues& input, const RowState* states, const uint64_t* candidates,
             const RowResults& results);

}  // namespace restkv::gpu
