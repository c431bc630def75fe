// The last step of the top-k on a GPU (radix_select_gpu.cu): the exact cut of every row.
#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/rank_search.h"
#include "kvcache/gpu/row_state.h"

namespace restkv::gpu {
namespace {

// One block per row; rows whose list does not do are left to resolve_rest. The list is in registers.
__global__ void __launch_bounds__(kListThreads, 4)
    resolve_lists(RowValues input, const RowState* states, const uint64_t* candidates, RowResults results) {
  __shared__ __align__(16) uint32_t histogram[1 << kListBits];
  __shared__ Choice choice;
  __shared__ unsigned long long sum;
  __shared__ uint32_t taken;
  const int64_t row = blockIdx.x;
  const int tid = static_cast<int>(threadIdx.x);
  const uint32_t k = input.k(row);
  if (k == 0) {  // the cut lies beyond every value
    write(results, row, {0xffffffffu, 0}, false);
    if (tid == 0 && results.sums != nullptr) results.sums[row] = 0;
    return;
  }
  const bool is_short = states == nullptr;
  const RowState state = is_short ? RowState{} : states[row];
  if (!is_short && !state.lists(k)) return;
  const int listed = is_short ? static_cast<int>(input.runs.total()) : static_cast<int>(state.candidates);
  uint64_t ranks[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kListThreads + tid;
    if (i < listed)
      ranks[j] = is_short ? rank_of(input.row(row)[input.runs.local(i)], input.runs.global(i))
                          : candidates[row * kCandidates + i];
  }
  auto each = [&](auto&& body) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j)
      if (j * kListThreads + tid < listed) body(ranks[j]);
  };
  if (tid == 0) {
    sum = is_short ? 0 : state.position;
    taken = 0;
  }
  bool tied = false;
  const SelectCut cut = find_in_list(histogram, &choice, is_short ? k : k - state.above, each, tied);
  write(results, row, cut, tied);
  if (results.top != nullptr) list_taken(cut, each, results.top + row * results.top_capacity, &taken);
  if (results.sums == nullptr) return;
  add_positions(cut, each, &sum);
  __syncthreads();
  if (tid == 0) results.sums[row] = static_cast<int64_t>(sum);
}

// Shared memory of a block of resolve_rest: of the search, and the rows that it has to search.
struct RestRows {
  RestShared search;
  uint32_t pending;
  int64_t rows[kRestThreads];
};

// A row whose list did not do. Each thread has several values on their way at a time: there may be few such rows, and
// each has only one multiprocessor to read it.
__device__ void search_row(const RowValues& input, int64_t row, const RowResults& results, RestShared& s) {
  constexpr int kAtOnce = 8;
  const int64_t total = input.runs.total();
  const float* values = input.row(row);
  auto each = [&](auto&& body) {
    for (int64_t first = threadIdx.x; first < total; first += kAtOnce * kRestThreads) {
      float x[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t i = first + j * kRestThreads;
        x[j] = i < total ? __ldg(values + input.runs.local(i)) : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int64_t i = first + j * kRestThreads;
        if (i < total) body(rank_of(x[j], input.runs.global(i)));
      }
    }
  };
  if (threadIdx.x == 0) {
    s.sum = 0;
    s.taken = 0;
  }
  bool tied = false;
  const SelectCut cut = find_in_row(s, input.k(row), each, tied);
  write(results, row, cut, tied);
  if (results.top != nullptr) list_taken(cut, each, results.top + row * results.top_capacity, &s.taken);
  if (results.sums == nullptr) return;
  add_positions(cut, each, &s.sum);
  __syncthreads();
  if (threadIdx.x == 0) results.sums[row] = static_cast<int64_t>(s.sum);
}

// As many blocks as there is room for at once: each looks at the states of all its rows together, and mostly finds
// nothing to do.
__global__ void __launch_bounds__(kRestThreads)
    resolve_rest(RowValues input, int64_t rows, const RowState* states, RowResults results) {
  __shared__ __align__(16) RestRows s;
  for (int64_t first = blockIdx.x; first < rows; first += static_cast<int64_t>(gridDim.x) * kRestThreads) {
    const int64_t mine = first + static_cast<int64_t>(threadIdx.x) * gridDim.x;
    if (threadIdx.x == 0) s.pending = 0;
    __syncthreads();
    if (mine < rows) {
      const uint32_t k = input.k(mine);
      if (k != 0 && !states[mine].lists(k)) s.rows[atomicAdd(&s.pending, 1u)] = mine;
    }
    __syncthreads();
    const uint32_t pending = s.pending;
    for (uint32_t j = 0; j < pending; ++j) {
      search_row(input, s.rows[j], results, s.search);
      __syncthreads();
    }
  }
}

}  // namespace

void resolve(Context& ctx, int64_t rows, const RowValues& input, const RowState* states, const uint64_t* candidates,
             const RowResults& results) {
  const cudaStream_t stream = stream_of(ctx);
  resolve_lists<<<static_cast<unsigned>(rows), kListThreads, 0, stream>>>(input, states, candidates, results);
  RESTKV_KERNEL_CHECK();
  if (states == nullptr) return;
  const int64_t at_once = int64_t{2} * ctx.gpu()->multiprocessors();
  resolve_rest<<<static_cast<unsigned>(std::min(rows, at_once)), kRestThreads, 0, stream>>>(input, rows, states,
                                                                                            results);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
