#include <algorithm>

#include "dist/base/gpu_launch.h"
#include "model/ops/decode_library.h"
#include "model/ops/decode_linear_launch.cuh"

namespace restkv::gpu::library {
namespace {

using decode::Activations;
using decode::Half;

constexpr int kThreads = 256;

dim3 grid_of(int64_t per_sequence, int64_t batch) {
  return dim3(static_cast<unsigned>((per_sequence + kThreads - 1) / kThreads), static_cast<unsigned>(batch));
}

// Columns [first, first + cols) of the products of a batch, f32, row-major with a leading dimension of their own.
class Products {
 public:
  Products(const DecodeStream& stream, int64_t cols) : stream_(stream), ld_(cols) {
    RESTKV_CHECK(stream.batch() * cols <= stream.products.numel(),
                 "products of {} sequences and {} columns: room for {} elements", stream.batch(), cols,
                 stream.products.numel());
  }
  float* data() const { return stream_.products.data<float>(); }
  MatrixView columns(int64_t first, int64_t cols) const {
    return {data() + first, DType::f32, stream_.batch(), cols, ld_};
  }

 private:
  const DecodeStream& stream_;
  int64_t ld_;
};

// x w^T for matrices w that have the same x: those that lie behind each other in memory in one call.
void multiply(Context& ctx, const MatrixView& x, std::initializer_list<MatrixView> weights, const Products& products) {
  int64_t column = 0;
  for (auto w = weights.begin(); w != weights.end();) {
    MatrixView joined = *w;
    for (++w; w != weights.end() && w->ld == joined.ld && w->data == joined.row<Half>(joined.rows); ++w)
      joined.rows += w->rows;
    gemm(ctx, x, joined, products.columns(column, joined.rows));
    column += joined.rows;
  }
}

struct QkvEnd {
  Activations in;  // for the norm
  const float* products;
  int64_t ld;
  int heads[2];  // query heads; query and key heads
  int all_heads;
  const float* bias[3];
  Half* y[3];
  int64_t y_ld[3];
  int half;  // d / 2
  const float* frequencies;
  int frequency_stride;
  const int32_t* positions;
  float rotation_factor;
};

// One thread per pair (i, i + d/2) of a head; block (., b) works on sequence b.
__global__ void __launch_bounds__(kThreads) qkv_end_kernel(const __grid_constant__ QkvEnd a) {
  let_next_start();
  wait_for_previous();
  const int b = blockIdx.y, pair = blockIdx.x * kThreads + threadIdx.x;
  const float scale = decode::norm_scale(a.in, b);
  if (pair >= a.all_heads * a.half) return;
  const int head = pair / a.half, i = pair % a.half, part = head < a.heads[0] ? 0 : head < a.heads[1] ? 1 : 2;
  const int row = (head - (part == 0 ? 0 : a.heads[part - 1])) * 2 * a.half + i;
  const float* from = a.products + b * a.ld + static_cast<int64_t>(head) * 2 * a.half + i;
  float low = __ldcg(from) * scale, high = __ldcg(from + a.half) * scale;
  if (a.bias[part] != nullptr) low += a.bias[part][row], high += a.bias[part][row + a.half];
  float sin = 0.0f, cos = 1.0f;
  if (part != 2) {  // the accurate version: angles reach the number of positions
    sincosf(static_cast<float>(__ldcg(a.positions + b)) * a.frequencies[b * a.frequency_stride + i], &sin, &cos);
    sin *= a.rotation_factor;
    cos *= a.rotation_factor;
  }
  Half* to = a.y[part] + b * a.y_ld[part] + row;
  to[0] = __float2bfloat16(low * cos - high * sin);
  to[a.half] = __float2bfloat16(high * cos + low * sin);
}

struct GateUpEnd {
  Activations in;
  const float* products;  // [batch, 2 n]: gate, up
  int n;
  Activation activation;
  Half* y;
  int64_t y_ld;
};

__global__ void __launch_bounds__(kThreads) gate_up_end_kernel(const __grid_constant__ GateUpEnd a) {
  let_next_start();
  wait_for_previous();
  const int b = blockIdx.y, i = blockIdx.x * kThreads + threadIdx.x;
  const float scale = decode::norm_scale(a.in, b);
  if (i >= a.n) return;
  const float* from = a.products + static_cast<int64_t>(b) * 2 * a.n + i;
  const float gate = __ldcg(from) * scale, up = __ldcg(from + a.n) * scale;
  a.y[b * a.y_ld + i] = __float2bfloat16(decode::activate(a.activation, gate) * up);
}

struct LogitsEnd {
  Activations in;
  float* y;
  int64_t ld;
  int n;
};

__global__ void __launch_bounds__(kThreads) logits_end_kernel(const __grid_constant__ LogitsEnd a) {
  let_next_start();
  wait_for_previous();
  const int b = blockIdx.y;
  const float scale = decode::norm_scale(a.in, b);
  float* row = a.y + b * a.ld;
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < a.n; i += gridDim.x * kThreads)
    row[i] = __ldcg(row + i) * scale;
}

}  // namespace

void decode_qkv(Context& ctx, const DecodeStream& stream, double eps, const DecodeQkv& args) {
  const int64_t columns = args.wq.rows + args.wk.rows + args.wv.rows;
  if (columns == 0) return;
  const Products products(stream, columns);
  multiply(ctx, MatrixView(stream.weighted), {args.wq, args.wk, args.wv}, products);
  QkvEnd end{};
  end.in = decode::normed_activations(stream, eps);
  end.products = products.data();
  end.ld = columns;
  end.heads[0] = static_cast<int>(args.wq.rows / args.d);
  end.heads[1] = end.heads[0] + static_cast<int>(args.wk.rows / args.d);
  end.all_heads = static_cast<int>(columns / args.d);
  const MatrixView* results[3] = {&args.q, &args.k, &args.v};
  const float* biases[3] = {args.q_bias, args.k_bias, args.v_bias};
  for (int part = 0; part < 3; ++part) {
    end.bias[part] = biases[part];
    end.y[part] = results[part]->row<Half>(0);
    end.y_ld[part] = results[part]->ld;
  }
  end.half = static_cast<int>(args.d / 2);
  end.frequencies = args.frequencies;
  end.frequency_stride = static_cast<int>(args.frequency_stride);
  end.positions = args.positions;
  end.rotation_factor = args.rotation_factor;
  launch_dependent(qkv_end_kernel, grid_of(columns / 2, stream.batch()), dim3(kThreads), 0, stream_of(ctx), end);
}

void decode_residual(Context& ctx, const MatrixView& in, const MatrixView& w, const Tensor& norm,
                     const DecodeStream& stream) {
  const Products products(stream, w.rows);
  multiply(ctx, in, {w}, products);
  const Tensor terms = Tensor::view(products.data(), DType::f32, stream.x.shape(), Device::gpu);
  prepare_stream(ctx, &terms, norm, stream);
}

void decode_gate_up(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& w_gate,
                    const MatrixView& w_up, Activation activation, const MatrixView& y) {
  if (w_gate.rows == 0) return;
  const Products products(stream, 2 * w_gate.rows);
  multiply(ctx, MatrixView(stream.weighted), {w_gate, w_up}, products);
  const GateUpEnd end{decode::normed_activations(stream, eps),
                      products.data(),
                      static_cast<int>(w_gate.rows),
                      activation,
                      y.row<Half>(0),
                      y.ld};
  launch_dependent(gate_up_end_kernel, grid_of(w_gate.rows, stream.batch()), dim3(kThreads), 0, stream_of(ctx), end);
}

void decode_logits(Context& ctx, const DecodeStream& stream, double eps, const MatrixView& head, const MatrixView& y) {
  if (head.rows == 0) return;
  gemm(ctx, MatrixView(stream.weighted), head, y);
  const LogitsEnd end{decode::normed_activations(stream, eps), y.row<float>(0), y.ld, static_cast<int>(head.rows)};
  constexpr int64_t kPerThread = 8;  // elements: the norm is summed once for them
  const int64_t runs = (head.rows + kPerThread - 1) / kPerThread;
  launch_dependent(logits_end_kernel, grid_of(runs, stream.batch()), dim3(kThreads), 0, stream_of(ctx), end);
}

}  // namespace restkv::gpu::library
