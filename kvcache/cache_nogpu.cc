// The GPU versions of the cache's ops in a build without CUDA. A context cannot be on a GPU there, so none of these is
// reached.
#include "dist/base/error.h"
#include "kvcache/cache_rows.h"
#include "kvcache/kept_rows.h"
#include "kvcache/output_factors.h"
#include "kvcache/reshard.h"
#include "kvcache/slots.h"

namespace restkv::gpu {
namespace {

[[noreturn]] void absent() { fail_runtime("the cache on a GPU: this build has no CUDA backend"); }

}  // namespace

void store_rows(Context&, const CacheSource&, const KeptRows&, const CacheRows&, int64_t*, int32_t*, int64_t) {
  absent();
}
void move_rows(Context&, const CacheRows&, int64_t, const CacheRows&, int64_t*) { absent(); }
void move_ragged_rows(Context&, const CacheRows&, const int64_t*, const int32_t*, const CacheRows&, const int64_t*,
                      int64_t) {
  absent();
}
void pack_heads(Context&, const int32_t*, int64_t, int64_t, int64_t, int64_t, int64_t*, int32_t*) { absent(); }
void tally_kept(Context&, int64_t, const KeptRows&, const std::vector<bool>&, const Tensor&, const Tensor&,
                const Tensor&) {
  absent();
}
void begin_rows(Context&, int64_t, int64_t, int64_t, int64_t*, int32_t*) { absent(); }
void merge_rows(Context&, const std::vector<PackedRows>&, int64_t, int64_t, int64_t, const DeviceKvLayer&) { absent(); }
void pack_positions(Context&, const DeviceKvLayer&, int64_t, int64_t, int32_t*) { absent(); }
void count_slots(Context&, const int32_t*, int, int64_t, int64_t, const DeviceKvLayer&) { absent(); }
void output_factors(Context&, const MatrixView&, int64_t, int64_t, float*) { absent(); }

}  // namespace restkv::gpu
