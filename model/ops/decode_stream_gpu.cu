// The residual stream where no product makes it: from the embedding table, or after a sum over ranks.
#include "dist/base/gpu_launch.h"
#include "dist/base/gpu_math.h"
#include "model/ops/decode_linear.h"

namespace restkv::gpu {
namespace {

using Half = __nv_bfloat16;
constexpr int kThreads = 256;

struct StreamArgs {
  float* x;            // [batch, H]
  Half* weighted;      // [batch, H]
  float* square_sums;  // [batch, parts]
  const float* norm;   // [H]
  int H, parts;
  const float* terms;  // [batch, H] added to x, or null
  // Or x is made anew from rows of a table:
  const int32_t* tokens;  // [batch] or null
  const Half* table;      // [last - first, H]
  int64_t first, last;
  float scale;  // of the table's elements
};

// One thread per element; block (i, b) makes elements 256 i to 256 i + 255 of sequence b.
__global__ void __launch_bounds__(kThreads) stream_kernel(StreamArgs a) {
  let_next_start();
  wait_for_previous();
  int i = blockIdx.x * kThreads + threadIdx.x;
  int64_t b = blockIdx.y, at = b * a.H + i;
  float value = 0.0f;
  if (i < a.H) {
    if (a.tokens != nullptr) {
      int64_t token = __ldcg(a.tokens + b);
      if (a.first <= token && token < a.last) value = a.scale * __bfloat162float(a.table[(token - a.first) * a.H + i]);
    } else {
      value = __ldcg(a.x + at);
      if (a.terms != nullptr) value += __ldcg(a.terms + at);
    }
    if (a.tokens != nullptr || a.terms != nullptr) a.x[at] = value;
    a.weighted[at] = __float2bfloat16(value * a.norm[i]);
  }
  // In the order of ResidualOp (decode_linear_gpu.cu): a stream has the same bits whichever kernel made it.
  float sum = __fmul_rn(value, value);
  sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, 8));
#pragma unroll
  for (int offset = 1; offset < 8; offset *= 2) sum = __fadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, offset));
  if (i < a.H && i % kSquareSumRows == 0) a.square_sums[b * a.parts + i / kSquareSumRows] = sum;
}

void launch_stream(Context& ctx, const DecodeStream& stream, const Tensor& norm, StreamArgs args) {
  args.x = stream.x.data<float>();
  args.weighted = static_cast<Half*>(stream.weighted.raw());
  args.square_sums = stream.square_sums.data<float>();
  args.norm = norm.data<float>();
  args.H = static_cast<int>(stream.hidden());
  args.parts = static_cast<int>(stream.square_sums.size(1));
  dim3 grid(static_cast<unsigned>((stream.hidden() + kThreads - 1) / kThreads), static_cast<unsigned>(stream.batch()));
  launch_dependent(stream_kernel, grid, dim3(kThreads), 0, stream_of(ctx), args);
}

}  // namespace

void decode_embed(Context& ctx, const Tensor& tokens, const Tensor& table, Range vocab, const Tensor& norm,
                  const DecodeStream& stream, float scale) {
  RESTKV_CHECK(table.dtype() == DType::bf16, "decode_embed on a GPU: table {}, bf16 needed", table.describe());
  StreamArgs args{};
  args.tokens = tokens.data<int32_t>();
  args.table = static_cast<const Half*>(table.raw());
  args.first = vocab.begin;
  args.last = vocab.end;
  args.scale = scale;
  launch_stream(ctx, stream, norm, args);
}

void prepare_stream(Context& ctx, const Tensor* terms, const Tensor& norm, const DecodeStream& stream) {
  StreamArgs args{};
  if (terms != nullptr) args.terms = terms->data<float>();
  launch_stream(ctx, stream, norm, args);
}

}  // namespace restkv::gpu
