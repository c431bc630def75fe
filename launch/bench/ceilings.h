// What this machine can do, measured in the run whose numbers are held against it.
#pragma once

#include "dist/base/context.h"
#include "dist/comm/communicator.h"

namespace restkv {

/// Over all ranks together: ranks of one host share its memory bus, so all measure at once and the rates are added.
struct Ceilings {
  double gemm_flops = 0.0;  ///< FLOP/s of a large product: float32 by OpenBLAS on CPUs, bf16 by cuBLASLt on GPUs
  double copy_bytes = 0.0;  ///< bytes/s of a copy that no cache holds, read and written counted
  int64_t ranks = 1;

  /// The share of so many of the ranks.
  Ceilings of(int64_t part) const {
    const double share = static_cast<double>(part) / static_cast<double>(ranks);
    return {gemm_flops * share, copy_bytes * share, part};
  }
};

/// Takes about a second on a CPU, less on a GPU, and gives its memory back. Collective.
Ceilings measure_ceilings(Context& ctx, Communicator& world);

}  // namespace restkv
