// What a cut takes of its row: the sum of the positions, or their list in ascending order.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/row_keys.h"
#include "kvcache/gpu/runs.h"
#include "kvcache/select/radix_pass.h"

namespace restkv::gpu {
namespace {

constexpr int kWarps = 8, kPerLane = 16;
constexpr int kPiece = kWarps * 32 * kPerLane;  // values that one block looks at

__global__ void sum_positions(const float* values, int64_t stride, Runs runs, const SelectCut* cuts, int64_t* sums) {
  __shared__ unsigned long long total;
  const int64_t row = blockIdx.x;
  const SelectCut cut = cuts[row];
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  unsigned long long sum = 0;
  for (int64_t i = threadIdx.x; i < runs.total(); i += blockDim.x) {
    const int64_t position = runs.global(i);
    if (cut.takes(key_of(values[row * stride + runs.local(i)]), position))
      sum += static_cast<unsigned long long>(position);
  }
  if (sum != 0) atomicAdd(&total, sum);
  __syncthreads();
  if (threadIdx.x == 0) sums[row] = static_cast<int64_t>(total);
}

// One block per piece (x) and row (y): which of the warp's 32 * kPerLane values are taken, by groups of 32 neighbours.
struct Taken {
  uint32_t bits[kPerLane];
  int count = 0;
};

__device__ Taken taken_by_warp(const float* values, int64_t stride, const Piece& piece, const SelectCut& cut) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* from = values + blockIdx.y * stride + piece.local;
  float x[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int i = (warp * kPerLane + j) * 32 + lane;
    x[j] = i < piece.count ? from[i] : 0.0f;
  }
  Taken taken;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int i = (warp * kPerLane + j) * 32 + lane;
    taken.bits[j] = __ballot_sync(0xffffffffu, i < piece.count && cut.takes(key_of(x[j]), piece.global + i));
    taken.count += __popc(taken.bits[j]);
  }
  return taken;
}

__global__ void __launch_bounds__(kWarps * 32)
    count_taken(const float* values, int64_t stride, Pieces pieces, const SelectCut* cuts, int32_t* counts) {
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  const Taken taken = taken_by_warp(values, stride, pieces.at(blockIdx.x), cuts[blockIdx.y]);
  if (threadIdx.x % 32 == 0 && taken.count != 0) atomicAdd(&total, taken.count);
  __syncthreads();
  if (threadIdx.x == 0) counts[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// counts as count_taken() left them. The block of the last piece also appends the tail. Without pieces (no position
// here) there is one block per row, for the tail alone.
__global__ void __launch_bounds__(kWarps * 32)
    list_taken(const float* values, int64_t stride, Pieces pieces, const SelectCut* cuts, const int32_t* counts,
               int64_t tail_begin, int64_t tail_end, int64_t capacity, int32_t* rows, int32_t* row_counts) {
  __shared__ int before;  // taken in earlier pieces
  __shared__ int in_warp[kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool some = pieces.count() > 0;
  if (threadIdx.x == 0) before = 0;
  Taken taken;
  Piece piece{};
  if (some) {
    piece = pieces.at(blockIdx.x);
    taken = taken_by_warp(values, stride, piece, cuts[blockIdx.y]);
  }
  if (lane == 0) in_warp[warp] = taken.count;
  __syncthreads();
  int mine = 0;
  for (int i = threadIdx.x; i < static_cast<int>(blockIdx.x); i += kWarps * 32)
    mine += counts[blockIdx.y * gridDim.x + i];
  if (mine != 0) atomicAdd(&before, mine);
  __syncthreads();
  int64_t at = before;
  for (int w = 0; w < warp; ++w) at += in_warp[w];
  int32_t* out = rows + blockIdx.y * capacity;
  if (some) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const uint32_t bits = taken.bits[j];
      const int64_t to = at + __popc(bits & ((1u << lane) - 1));
      if ((bits >> lane & 1u) != 0 && to < capacity)
        out[to] = static_cast<int32_t>(piece.local + (warp * kPerLane + j) * 32 + lane);
      at += __popc(bits);
    }
  }
  if (blockIdx.x + 1 != gridDim.x) return;
  int64_t all = before;
  for (int w = 0; w < kWarps; ++w) all += in_warp[w];
  for (int64_t i = tail_begin + threadIdx.x; i < tail_end; i += kWarps * 32)
    if (all + i - tail_begin < capacity) out[all + i - tail_begin] = static_cast<int32_t>(i);
  if (threadIdx.x == 0) row_counts[blockIdx.y] = static_cast<int32_t>(min(all + tail_end - tail_begin, capacity));
}

}  // namespace

void top_set_sums(Context& ctx, const SelectRows& input, const SelectCut* cuts, int64_t* sums) {
  if (input.rows == 0) return;
  sum_positions<<<static_cast<unsigned>(input.rows), 1024, 0, stream_of(ctx)>>>(input.values, input.stride,
                                                                                Runs(*input.segments), cuts, sums);
  RESTKV_KERNEL_CHECK();
}

void top_set_rows(Context& ctx, const SelectRows& input, const SelectCut* cuts, Range tail, int64_t capacity,
                  int32_t* rows, int32_t* counts) {
  if (input.rows == 0) return;
  RESTKV_CHECK(input.rows <= 65535, "{} rows", input.rows);
  const Pieces pieces(Runs(*input.segments), kPiece);
  Tensor in_piece;
  int32_t* piece_counts = nullptr;
  const dim3 grid(static_cast<unsigned>(std::max(pieces.count(), 1)), static_cast<unsigned>(input.rows));
  if (pieces.count() > 0) {
    in_piece = ctx.empty(DType::i32, {input.rows, pieces.count()});
    piece_counts = in_piece.data<int32_t>();
    count_taken<<<grid, kWarps * 32, 0, stream_of(ctx)>>>(input.values, input.stride, pieces, cuts, piece_counts);
    RESTKV_KERNEL_CHECK();
  }
  list_taken<<<grid, kWarps * 32, 0, stream_of(ctx)>>>(input.values, input.stride, pieces, cuts, piece_counts,
                                                       tail.begin, tail.end, capacity, rows, counts);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
