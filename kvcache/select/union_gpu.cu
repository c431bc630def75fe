// The last step of a selection in a group of GPU ranks: every rank has listed the k + 1 largest of its own values, and
// finds the k-th largest among the lists of all.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/rank_search.h"
#include "kvcache/select/radix_pass.h"

namespace restkv::gpu {
namespace {

// Lists [ranks, rows, capacity].
struct Lists {
  const uint64_t* ranks;
  int count;  // lists per row
  int64_t rows, capacity;
  const uint32_t* k_of_row;  // null: k_all for every row
  uint32_t k_all;

  __device__ uint32_t k(int64_t row) const { return k_of_row != nullptr ? k_of_row[row] : k_all; }
  __device__ const uint64_t* list(int64_t row, int index) const { return ranks + (index * rows + row) * capacity; }
};

__device__ bool wants_none(const Lists& lists, int64_t row, const RowResults& results) {
  if (lists.k(row) != 0) return false;
  write(results, row, {0xffffffffu, 0}, false);
  if (threadIdx.x == 0 && results.sums != nullptr) results.sums[row] = 0;
  return true;
}

// One block per row. All lists of a row together are in registers.
__global__ void __launch_bounds__(kListThreads, 4) resolve_short(Lists lists, RowResults results) {
  __shared__ __align__(16) uint32_t histogram[1 << kListBits];
  __shared__ Choice choice;
  __shared__ unsigned long long sum;
  const int64_t row = blockIdx.x;
  const int tid = static_cast<int>(threadIdx.x), capacity = static_cast<int>(lists.capacity);
  if (wants_none(lists, row, results)) return;
  const int listed = lists.count * capacity;
  uint64_t ranks[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kListThreads + tid, index = i / capacity;
    if (i < listed) ranks[j] = lists.list(row, index)[i - index * capacity];
  }
  auto each = [&](auto&& body) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      if (j * kListThreads + tid < listed) body(ranks[j]);
  };
  if (tid == 0) sum = 0;
  bool tied = false;
  const SelectCut cut = find_in_list(histogram, &choice, lists.k(row), each, tied);
  write(results, row, cut, tied);
  if (results.sums == nullptr) return;
  add_positions(cut, each, &sum);
  __syncthreads();
  if (tid == 0) results.sums[row] = static_cast<int64_t>(sum);
}

// The same for lists of any length, in memory.
__global__ void __launch_bounds__(kRestThreads) resolve_long(Lists lists, RowResults results) {
  __shared__ __align__(16) RestShared s;
  const int64_t row = blockIdx.x;
  if (wants_none(lists, row, results)) return;
  auto each = [&](auto&& body) {
    for (int index = 0; index < lists.count; ++index) {
      const uint64_t* list = lists.list(row, index);
#pragma unroll 4
      for (int64_t i = threadIdx.x; i < lists.capacity; i += kRestThreads) body(list[i]);
    }
  };
  if (threadIdx.x == 0) s.sum = 0;
  bool tied = false;
  const SelectCut cut = find_in_row(s, lists.k(row), each, tied);
  write(results, row, cut, tied);
  if (results.sums == nullptr) return;
  add_positions(cut, each, &s.sum);
  __syncthreads();
  if (threadIdx.x == 0) results.sums[row] = static_cast<int64_t>(s.sum);
}

}  // namespace

void resolve_union(Context& ctx, const uint64_t* gathered, int ranks, int64_t rows, int64_t capacity,
                   const uint32_t* k_of_row, uint32_t k, SelectCut* cuts, int32_t* tied, int64_t* sums) {
  if (rows == 0) return;
  const Lists lists{gathered, ranks, rows, capacity, k_of_row, k};
  const unsigned blocks = static_cast<unsigned>(rows);
  if (ranks * capacity <= kCandidates)
    resolve_short<<<blocks, kListThreads, 0, stream_of(ctx)>>>(lists, {cuts, tied, sums});
  else
    resolve_long<<<blocks, kRestThreads, 0, stream_of(ctx)>>>(lists, {cuts, tied, sums});
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
