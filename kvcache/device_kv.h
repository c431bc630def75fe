// A layer's cache as GPU kernels see it. Decode steps run as captured graphs: a kernel reads this record anew at every
// launch, so a cache may grow or be replaced between launches without a new capture.
#pragma once

#include <cstdint>

namespace restkv {

/// One layer of one sequence. All pointers are device memory.
struct DeviceKvLayer {
  void* k = nullptr;                   ///< [sum of capacities, d], one head after the other
  void* v = nullptr;                   ///< [sum of capacities, d]
  int32_t* position = nullptr;         ///< [sum of capacities] global position of each row
  const int64_t* first_row = nullptr;  ///< [heads] where a head's rows begin
  int32_t* length = nullptr;           ///< [heads] rows in use
  int64_t* sums = nullptr;             ///< [sum of capacities] of each row (KvCache::keep_sums()); null: none are kept
  /// [sum of capacities] the row's place among the rows of all ranks (slots.h), where rows of a head are spread over
  /// ranks and positions are those in the cache; else null: the place is the row's index.
  int32_t* slot = nullptr;
  int32_t* total = nullptr;  ///< [heads] rows of all ranks; null with `slot`
};

}  // namespace restkv
