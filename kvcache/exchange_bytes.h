// Bytes that the eviction of one layer sends, in closed form: what `restkv plan` prints before a run.
#pragma once

#include <cstdint>

#include "dist/base/dtype.h"
#include "dist/comm/partition.h"
#include "kvcache/config.h"
#include "kvcache/heads.h"

namespace restkv {

struct ExchangeBytes {
  int64_t sequence = 0;  ///< inside the sequence group
  int64_t tensor = 0;    ///< inside the tensor group
};

/// Where the layer is evicted, and which it is: GPU ranks exchange lists as long as the layer's budget.
struct ExchangeLayer {
  Device device = Device::cpu;
  int64_t layer = 0;
  int64_t layers = 1;  ///< of the model; 1: a layer with the mean budget
};

/// What one rank sends for one layer, as CommStats::bytes_sent counts it: on GPU ranks always, on CPU ranks when no cut
/// falls into a tie. There each tied row of a selection adds one all-reduce share of 8 KiB per 11 bits of the position
/// (8 or 16 KiB below 4M tokens).
/// Zero when the policy does not evict. Precondition: the budget fits the partition's length.
///   heads: those of the rank; tensor_size: ranks of the tensor group
/// Throws InputError when the policy is not known.
ExchangeBytes eviction_exchange_bytes(const CacheConfig& config, const HeadLayout& heads,
                                      const SequencePartition& partition, int sequence_rank, int tensor_size,
                                      const ExchangeLayer& where = {});

}  // namespace restkv
