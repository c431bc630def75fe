// The small kernels of a decode step: the merge of the ranks' partial attention, and the step's end.
#include "dist/base/gpu_launch.h"
#include "dist/base/gpu_math.h"
#include "model/ops/attention_decode.h"

namespace restkv::gpu {
namespace {

// One block per query.
__global__ void merge_kernel(PartialMerge args) {
  wait_for_previous();
  int64_t row = blockIdx.x;
  float highest = -INFINITY, total = 0.0f;
  for (int64_t part = 0; part < args.parts; ++part) highest = fmaxf(highest, args.lse[part * args.lse_stride + row]);
  // No part has rows: every weight would be exp(-inf + inf).
  float base = highest == -INFINITY ? 0.0f : highest;
  for (int64_t part = 0; part < args.parts; ++part) total += expf(args.lse[part * args.lse_stride + row] - base);
  if (threadIdx.x == 0 && args.merged_lse != nullptr) args.merged_lse[row] = base + logf(total);
  float scale = total > 0.0f ? 1.0f / total : 0.0f;
  for (int64_t c = threadIdx.x; c < args.d; c += blockDim.x) {
    float x = 0.0f;
    for (int64_t part = 0; part < args.parts; ++part) {
      float w = expf(args.lse[part * args.lse_stride + row] - base);
      if (w > 0.0f) x = fmaf(w, args.out[part * args.out_stride + row * args.d + c], x);
    }
    x *= scale;
    if (args.merged != nullptr) args.merged[row * args.d + c] = x;
    if (args.merged_bf16 != nullptr)
      static_cast<__nv_bfloat16*>(args.merged_bf16)[row * args.d + c] = __float2bfloat16_rn(x);
  }
}

// One block per sequence.
__global__ void advance_kernel(DecodeAdvance args) {
  wait_for_previous();
  int64_t b = blockIdx.x;
  bool owned = args.owner == nullptr || args.owner[b] != 0;
  if (owned)
    for (int64_t i = threadIdx.x; i < args.layers * args.cache_heads; i += blockDim.x) {
      int32_t* length = args.layer[b * args.layers + i / args.cache_heads].length;
      if (length != nullptr) ++length[i % args.cache_heads];
    }
  // Where rows are spread over ranks, every rank counts them all.
  for (int64_t i = threadIdx.x; i < args.layers * args.cache_heads; i += blockDim.x) {
    int32_t* total = args.layer[b * args.layers + i / args.cache_heads].total;
    if (total != nullptr) ++total[i % args.cache_heads];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  int32_t next = args.position[b] + 1;
  args.position[b] = next;
  if (args.step != nullptr) ++args.step[b];
  if (args.prompt_tokens != nullptr)
    args.owner[b] = (next - args.prompt_tokens[b]) % args.sequence_ranks == args.sequence_rank ? 1 : 0;
}

}  // namespace

void merge_partial_attention(Context& ctx, const PartialMerge& args) {
  launch_dependent(merge_kernel, dim3(static_cast<unsigned>(args.rows)), dim3(64), 0, stream_of(ctx), args);
}

void advance_decode(Context& ctx, const DecodeAdvance& args) {
  launch_dependent(advance_kernel, dim3(static_cast<unsigned>(args.batch)), dim3(256), 0, stream_of(ctx), args);
}

}  // namespace restkv::gpu
