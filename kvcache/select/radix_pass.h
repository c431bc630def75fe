// One digit of the radix select, on the device: count, then choose. Internal to kvcache/select.
#pragma once

#include "kvcache/select/radix_select.h"

namespace restkv {

/// What is known of a row after some digits: the upper bits of the wanted number, and how many of the elements that
/// share them are still wanted.
struct RadixRow {
  uint32_t prefix = 0;
  uint32_t wanted = 0;
  uint32_t sharing = 0;  ///< elements that share the prefix
};

/// A digit: bits [shift, shift + bits) of the number; the bits above are the prefix.
struct Digit {
  int shift = 0;
  int bits = 0;
  int64_t bins() const { return int64_t{1} << bits; }
};

namespace cpu {  // radix_pass_cpu.cc

/// histogram [rows, bins] (i32, overwritten): digits of the keys of the values that share the row's prefix.
void count_keys(Context& ctx, const SelectRows& input, const RadixRow* state, Digit digit, int32_t* histogram);

/// The same for the global positions of the values of row row_id[j] whose key is keys[j]; histogram [tied, bins].
void count_tie_positions(Context& ctx, const SelectRows& input, const std::vector<int64_t>& row_id,
                         const std::vector<uint32_t>& keys, const RadixRow* state, Digit digit, int32_t* histogram);

/// Moves every row into the bin that holds its wanted-th element, from the top (largest) or from the bottom.
void choose_bins(Context& ctx, const int32_t* histogram, int64_t rows, Digit digit, bool from_top, RadixRow* state);

void top_set_sums(Context& ctx, const SelectRows& input, const SelectCut* cuts, int64_t* sums);
void top_set_rows(Context& ctx, const SelectRows& input, const SelectCut* cuts, Range tail, int64_t capacity,
                  int32_t* rows, int32_t* counts);

}  // namespace cpu

// What one rank does.
namespace gpu {

/// radix_select_gpu.cu. All positions of a row are here. k_of_row [rows] (on the device) or, where null, k for every
/// row; tied [rows]; sums [rows] may be null. read: of select_top_beside(), or null.
void select_top(Context& ctx, const SelectRows& input, const uint32_t* k_of_row, uint32_t k, SelectCut* cuts,
                int32_t* tied, int64_t* sums, const ReadValues& read);

/// The k largest of the values that are here, per row: top [rows, capacity] their ranks (gpu/row_state.h) in no order,
/// and zeros (below every rank) behind them. input.total is not looked at. k <= capacity, rows > 0. read: called once.
void list_top(Context& ctx, const SelectRows& input, int64_t k, uint64_t* top, int64_t capacity,
              const ReadValues& read);

/// union_gpu.cu. gathered [ranks, rows, capacity]: list_top() of every rank of a group, for at least k + 1 or all of
/// its values. sums [rows] may be null: of the whole top set.
void resolve_union(Context& ctx, const uint64_t* gathered, int ranks, int64_t rows, int64_t capacity,
                   const uint32_t* k_of_row, uint32_t k, SelectCut* cuts, int32_t* tied, int64_t* sums);

// top_rows_gpu.cu
void top_set_sums(Context& ctx, const SelectRows& input, const SelectCut* cuts, int64_t* sums);
void top_set_rows(Context& ctx, const SelectRows& input, const SelectCut* cuts, Range tail, int64_t capacity,
                  int32_t* rows, int32_t* counts);

}  // namespace gpu

}  // namespace restkv
