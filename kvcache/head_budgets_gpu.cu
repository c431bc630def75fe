#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/layout.h"
#include "kvcache/gpu/row_keys.h"
#include "kvcache/gpu/runs.h"
#include "kvcache/head_budgets.h"
#include "kvcache/select/radix_select.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 4096;
constexpr int kMostHeads = 1024;

// Blocks along x: pieces of the past; y: heads. Sums of integers have no order, so atomics add them up.
__global__ void __launch_bounds__(kThreads)
    count_kernel(const float* scores, int64_t stride, Pieces pieces, const SelectCut* cut, CutCounts* counts) {
  const Piece piece = pieces.at(static_cast<int>(blockIdx.x));
  const float* from = scores + blockIdx.y * stride + piece.local;
  const uint32_t wanted = cut->key;
  int above = 0, equal = 0;
  for (int i = static_cast<int>(threadIdx.x); i < piece.count; i += kThreads) {
    const uint32_t key = key_of(from[i]);
    above += key > wanted ? 1 : 0;
    equal += key == wanted ? 1 : 0;
  }
  above = __reduce_add_sync(0xffffffffu, above);
  equal = __reduce_add_sync(0xffffffffu, equal);
  if (threadIdx.x % 32 != 0) return;
  if (above != 0) atomicAdd(&counts[blockIdx.y].above, above);
  if (equal != 0) atomicAdd(&counts[blockIdx.y].equal, equal);
}

// One block, a thread per head.
__global__ void __launch_bounds__(kMostHeads) deal_kernel(const CutCounts* counts, int heads, int64_t mean,
                                                          int64_t floor, int first, int mine, uint32_t* budgets) {
  __shared__ CutCounts all[kMostHeads];
  __shared__ int64_t shares[kMostHeads];
  const int h = static_cast<int>(threadIdx.x);
  if (h < heads) all[h] = counts[h];
  __syncthreads();
  if (h < heads) shares[h] = budget_share(all, heads, h, mean, floor);
  __syncthreads();
  if (h >= first && h < first + mine) budgets[h - first] = static_cast<uint32_t>(rounded_share(shares, heads, h));
}

}  // namespace

void count_at_cut(Context& ctx, const float* scores, int64_t heads, int64_t stride, const std::vector<Segment>& past,
                  const void* cut, CutCounts* counts) {
  ctx.fill_zero(counts, heads * static_cast<int64_t>(sizeof(CutCounts)));
  const Pieces pieces(Runs(past), kPiece);
  if (pieces.count() == 0 || heads == 0) return;
  const dim3 grid(static_cast<unsigned>(pieces.count()), static_cast<unsigned>(heads));
  count_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(scores, stride, pieces, static_cast<const SelectCut*>(cut),
                                                      counts);
  RESTKV_KERNEL_CHECK();
}

void deal_budget(Context& ctx, const CutCounts* counts, int64_t heads, int64_t mean, int64_t floor_units, Range mine,
                 uint32_t* budgets) {
  RESTKV_CHECK(heads <= kMostHeads, "{} heads of a layer, at most {} can share a budget", heads, kMostHeads);
  if (mine.empty()) return;
  const auto threads = static_cast<unsigned>((heads + 31) / 32 * 32);
  deal_kernel<<<1, threads, 0, stream_of(ctx)>>>(counts, static_cast<int>(heads), mean, floor_units,
                                                 static_cast<int>(mine.begin), static_cast<int>(mine.size()), budgets);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
