// R_h by a Cholesky factorisation of the Gram matrix in double precision: squaring costs half the digits, of which f64
// has enough to spare for an f32 result unless the head is close to singular. Such a head is left to the CPU's QR.
#include <vector>

#include "dist/base/gpu_handles.h"
#include "kvcache/output_factors_cpu.h"

namespace restkv::gpu {
namespace {

constexpr int kTile = 32;  // of the Gram matrix per block, and rows of wo taken at a time
constexpr int kSide = 16;  // threads along each side of a tile; each has 2 x 2 elements
constexpr int kFactorThreads = 512;
// What may be left of a diagonal element: errors of the Gram matrix are 1e-16 of it, so 1e-6 of such a pivot.
constexpr double kSmallestPivot = 1e-10;

__device__ double as_double(float x) { return static_cast<double>(x); }
__device__ double as_double(uint16_t bf16_bits) {
  return static_cast<double>(__uint_as_float(static_cast<uint32_t>(bf16_bits) << 16));
}

// gram [heads, d, d]: elements (i, j) with i's tile not after j's. Blocks: tile pairs along x (those after the diagonal
// return), heads along y.
template <class T>
__global__ void __launch_bounds__(kSide* kSide)
    gram_matrix(const T* wo, int64_t rows, int64_t ld, int d, int tiles, double* gram) {
  __shared__ double2 left[kTile][kSide], right[kTile][kSide];
  const int tile_i = static_cast<int>(blockIdx.x) / tiles, tile_j = static_cast<int>(blockIdx.x) % tiles;
  if (tile_i > tile_j) return;
  const int tx = static_cast<int>(threadIdx.x) % kSide, ty = static_cast<int>(threadIdx.x) / kSide;
  const T* columns = wo + static_cast<int64_t>(blockIdx.y) * d;
  double sum[2][2] = {};
  for (int64_t first = 0; first < rows; first += kTile) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile; i += kSide * kSide) {
      const int r = i / kTile, c = i % kTile;
      const bool inside = first + r < rows;
      const T* row = columns + (first + r) * ld;
      const int ci = tile_i * kTile + c, cj = tile_j * kTile + c;
      reinterpret_cast<double*>(left[r])[c] = inside && ci < d ? as_double(row[ci]) : 0.0;
      reinterpret_cast<double*>(right[r])[c] = inside && cj < d ? as_double(row[cj]) : 0.0;
    }
    __syncthreads();
#pragma unroll 8
    for (int r = 0; r < kTile; ++r) {
      const double2 a = left[r][ty], b = right[r][tx];
      sum[0][0] = fma(a.x, b.x, sum[0][0]);
      sum[0][1] = fma(a.x, b.y, sum[0][1]);
      sum[1][0] = fma(a.y, b.x, sum[1][0]);
      sum[1][1] = fma(a.y, b.y, sum[1][1]);
    }
  }
  double* out = gram + static_cast<int64_t>(blockIdx.y) * d * d;
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) {
      const int row = tile_i * kTile + 2 * ty + i, column = tile_j * kTile + 2 * tx + j;
      if (row < d && column < d) out[row * d + column] = sum[i][j];
    }
}

// One block per head: gram's upper triangle becomes that of R, which is written to r in f32. failed[head]: some pivot
// was too small, r is not to be used. Shared memory: 2 d doubles.
__global__ void __launch_bounds__(kFactorThreads) factor(double* gram, int d, float* r, int32_t* failed) {
  extern __shared__ double shared[];
  double* diagonal = shared;
  double* row = shared + d;
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
  double* g = gram + static_cast<int64_t>(blockIdx.x) * d * d;
  float* out = r + static_cast<int64_t>(blockIdx.x) * d * d;
  for (int i = tid; i < d; i += kFactorThreads) diagonal[i] = g[i * d + i];
  if (tid == 0) failed[blockIdx.x] = 0;
  for (int i = 0; i < d; ++i) {
    __syncthreads();
    const double pivot = g[i * d + i];
    if (!(pivot > kSmallestPivot * diagonal[i])) {
      if (tid == 0) failed[blockIdx.x] = 1;
      return;
    }
    const double root = sqrt(pivot);
    for (int j = tid; j < d; j += kFactorThreads) {
      const double x = j < i ? 0.0 : j == i ? root : g[i * d + j] / root;
      row[j] = x;
      out[i * d + j] = static_cast<float>(x);
    }
    __syncthreads();
    for (int a = i + 1 + warp; a < d; a += kFactorThreads / 32)
      for (int b = a + lane; b < d; b += 32) g[a * d + b] = fma(-row[a], row[b], g[a * d + b]);
  }
}

// The CPU's factors of one head.
void factor_on_cpu(Context& ctx, const MatrixView& wo, int64_t head, int64_t d, float* r) {
  const size_t element = static_cast<size_t>(size_of(wo.dtype)), width = static_cast<size_t>(d) * element;
  std::vector<char> columns(static_cast<size_t>(wo.rows) * width);
  std::vector<float> factors(static_cast<size_t>(d * d));
  RESTKV_CUDA_CHECK(cudaMemcpy2DAsync(columns.data(), width,
                                      static_cast<const char*>(wo.data) + static_cast<size_t>(head) * width,
                                      static_cast<size_t>(wo.ld) * element, width, static_cast<size_t>(wo.rows),
                                      cudaMemcpyDeviceToHost, stream_of(ctx)));
  ctx.synchronize();
  output_factors_cpu(ctx, {columns.data(), wo.dtype, wo.rows, d, d}, 1, d, factors.data());
  ctx.gpu()->to_device(r + head * d * d, factors.data(), d * d * static_cast<int64_t>(sizeof(float)));
}

}  // namespace

void output_factors(Context& ctx, const MatrixView& wo, int64_t heads, int64_t d, float* r) {
  if (heads == 0) return;
  const int tiles = static_cast<int>((d + kTile - 1) / kTile);
  Tensor gram = ctx.empty(DType::f64, {heads, d, d}), failed = ctx.empty(DType::i32, {heads});
  const dim3 grid(static_cast<unsigned>(tiles * tiles), static_cast<unsigned>(heads));
  if (wo.dtype == DType::bf16)
    gram_matrix<<<grid, kSide * kSide, 0, stream_of(ctx)>>>(static_cast<const uint16_t*>(wo.data), wo.rows, wo.ld,
                                                            static_cast<int>(d), tiles, gram.data<double>());
  else
    gram_matrix<<<grid, kSide * kSide, 0, stream_of(ctx)>>>(static_cast<const float*>(wo.data), wo.rows, wo.ld,
                                                            static_cast<int>(d), tiles, gram.data<double>());
  RESTKV_KERNEL_CHECK();
  factor<<<static_cast<unsigned>(heads), kFactorThreads, 2 * static_cast<size_t>(d) * sizeof(double), stream_of(ctx)>>>(
      gram.data<double>(), static_cast<int>(d), r, failed.data<int32_t>());
  RESTKV_KERNEL_CHECK();
  const std::vector<int32_t> is_failed = ctx.to_host<int32_t>(failed);
  for (int64_t head = 0; head < heads; ++head)
    if (is_failed[static_cast<size_t>(head)] != 0) factor_on_cpu(ctx, wo, head, d, r);
}

}  // namespace restkv::gpu
