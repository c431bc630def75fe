// Eviction while decoding on a GPU in a build without CUDA. A context cannot be on a GPU there, so none of these is
// reached.
#include "dist/base/error.h"
#include "kvcache/decode/group_rows.h"

namespace restkv::gpu {
namespace {

[[noreturn]] void absent() { fail_runtime("eviction while decoding on a GPU: this build has no CUDA backend"); }

}  // namespace

void pack_queries(Context&, const StepQueries&, const void*, const float*, int32_t*) { absent(); }
void unpack_queries(Context&, const StepQueries&, const QuerySources&, const int32_t*, void*, float*) { absent(); }
void keep_queries(Context&, const DeviceEvictBatch&, int64_t, int64_t) { absent(); }
void add_row_sums(Context&, const DeviceEvictBatch&, int64_t) { absent(); }
void sum_last_weights(Context&, const DeviceEvictBatch&, const DueSlots&, int64_t*, int64_t) { absent(); }
void key_norm_keys(Context&, const DeviceEvictBatch&, const DueSlots&, int64_t*, int64_t) { absent(); }
void cut_rows(Context&, const DeviceEvictBatch&, const DueSlots&, const RowCut&, const RowListsView&) { absent(); }
void keep_rows(Context&, const DeviceEvictBatch&, const DueSlots&, const RowRun&, const RowListsView&) { absent(); }
void gather_rows(Context&, const DeviceKvLayer*, int64_t, int64_t, int64_t, int64_t, void*, void*) { absent(); }
void begin_ring(Context&, const MatrixView&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, void*) { absent(); }
void begin_row_sums(Context&, const DeviceKvLayer&, int64_t, int64_t, int64_t, const int64_t*) { absent(); }
void pack_rows(Context&, const DeviceEvictBatch&, const DueSlots&, const RowCut&, const RowRun&, const GroupMessage&,
               int32_t*) {
  absent();
}
void cut_group_rows(Context&, const DeviceEvictBatch&, const DueSlots&, const RowCut&, const RowRun&,
                    const GroupMessages&, const RowListsView&) {
  absent();
}
void pack_kv(Context&, const DeviceEvictBatch&, const DueSlots&, const RowRun&, const GroupMessage&, int64_t,
             int32_t*) {
  absent();
}
void order_kv(Context&, const GroupMessages&, int64_t, int64_t, int64_t, int64_t, void*, void*) { absent(); }
void list_kept(Context&, const DeviceEvictBatch&, const DueSlots&, const RowRun&, const GroupMessages&, const int32_t*,
               const int32_t*, int64_t, const RowListsView&) {
  absent();
}

}  // namespace restkv::gpu
