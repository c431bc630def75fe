#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/kept_rows.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 256;  // of one launch: their numbers are kernel parameters

struct ModelHeads {
  int32_t of[kHeads];  // index in the model, or -1: not counted
};

// Blocks of one head along x. Sums of integers have no order, so atomics add them up.
__global__ void __launch_bounds__(kThreads)
    tally(int64_t layer, int first_head, ModelHeads heads, const int32_t* rows, int64_t capacity, const int32_t* counts,
          int64_t known, const void* positions, bool wide, unsigned long long* hash, unsigned long long* model_counts) {
  const int64_t local = first_head + blockIdx.y, head = heads.of[blockIdx.y];
  if (head < 0) return;
  const int64_t count = counts != nullptr ? counts[local] : known;
  unsigned long long sum = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t row = rows != nullptr ? rows[local * capacity + i] : i;
    const int64_t position =
        wide ? static_cast<const int64_t*>(positions)[row] : static_cast<const int32_t*>(positions)[row];
    sum += kept_hash_term(layer, head, position);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(hash, sum);
  if (blockIdx.x == 0 && threadIdx.x == 0) atomicAdd(model_counts + head, static_cast<unsigned long long>(count));
}

}  // namespace

void tally_kept(Context& ctx, int64_t layer, const KeptRows& kept, const std::vector<bool>& counted,
                const Tensor& positions, const Tensor& hash, const Tensor& counts) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  const int64_t most = kept.known >= 0 ? kept.known : kept.capacity();
  const int64_t blocks = std::clamp<int64_t>((most + kThreads - 1) / kThreads, 1, 64);
  for (int64_t first = 0; first < kept.heads(); first += kHeads) {
    const int64_t now = std::min<int64_t>(kHeads, kept.heads() - first);
    ModelHeads heads{};
    for (int64_t h = 0; h < now; ++h)
      heads.of[h] = counted[first + h] ? static_cast<int32_t>(kept.head[first + h]) : -1;
    tally<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(now)), kThreads, 0, stream_of(ctx)>>>(
        layer, static_cast<int>(first), heads, kept.all ? nullptr : kept.rows.data<int32_t>(), kept.capacity(),
        kept.all ? nullptr : kept.counts.data<int32_t>(), kept.known, positions.raw(), positions.dtype() == DType::i64,
        reinterpret_cast<unsigned long long*>(hash.data<uint64_t>()),
        reinterpret_cast<unsigned long long*>(counts.data<int64_t>()));
    RESTKV_KERNEL_CHECK();
  }
}

}  // namespace restkv::gpu
