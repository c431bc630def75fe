// Keys of a layer turned by their slots, for all sequences of a batch in one launch.
#include <algorithm>

#include "dist/base/gpu_launch.h"
#include "dist/base/gpu_math.h"
#include "model/ops/cache_rope.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;

struct Params {
  __nv_bfloat16* q;
  const __nv_bfloat16 *k, *v;
  int64_t q_ld, k_ld, v_ld;
  const int32_t *position, *owner;
  const DeviceKvLayer *layer, *view;
  int64_t layer_stride, view_stride;
  int d, octets;  // octets: runs of eight pairs in a head
  const float* frequencies;
  float factor;
  uint16_t first_query[kMaxCacheHeads + 1], source[kMaxCacheHeads];
};

// Eight neighbouring pairs of one head, the i-th octet of it, at position `slot`.
__device__ __forceinline__ void turn(const Params& p, const __nv_bfloat16* from, __nv_bfloat16* to, int i, int slot) {
  const int half = p.d / 2, at = 8 * i;
  float a[8], b[8], turned_a[8], turned_b[8];
  unpack(load8(from + at), a);
  unpack(load8(from + at + half), b);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float sin, cos;
    // The accurate version: angles reach the number of slots.
    sincosf(static_cast<float>(slot) * p.frequencies[at + j], &sin, &cos);
    sin *= p.factor;
    cos *= p.factor;
    turned_a[j] = a[j] * cos - b[j] * sin;
    turned_b[j] = b[j] * cos + a[j] * sin;
  }
  store8(to + at, pack(turned_a));
  store8(to + at + half, pack(turned_b));
}

// Blocks along x: rows of a cache head, y: cache heads, z: sequences. The first block of a head also has its queries.
__global__ void __launch_bounds__(kThreads) rotate_kernel(const __grid_constant__ Params p) {
  wait_for_previous();
  const int h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const DeviceKvLayer cache = p.layer[b * p.layer_stride], view = p.view[b * p.view_stride];
  if (cache.length == nullptr) return;  // an empty place of the batch
  const int64_t first_row = cache.first_row[h];
  const int length = cache.length[h], next = cache.total != nullptr ? cache.total[h] : length;
  const bool owned = p.owner == nullptr || p.owner[b] != 0;
  const int count = length + (owned ? 1 : 0);
  auto* k = static_cast<__nv_bfloat16*>(cache.k) + first_row * p.d;
  auto* keys = static_cast<__nv_bfloat16*>(view.k) + first_row * p.d;
  const __nv_bfloat16* k_new = p.k + b * p.k_ld + static_cast<int64_t>(p.source[h]) * p.d;

  const int64_t items = static_cast<int64_t>(count) * p.octets, step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t item = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; item < items; item += step) {
    const int64_t row = item / p.octets;
    const int i = static_cast<int>(item - row * p.octets);
    const bool fresh = row == length;
    const __nv_bfloat16* from = fresh ? k_new : k + row * p.d;
    if (fresh) {  // it goes to the cache as it is
      store8(k + row * p.d + 8 * i, load8(from + 8 * i));
      store8(k + row * p.d + 8 * i + p.d / 2, load8(from + 8 * i + p.d / 2));
    }
    const int slot = fresh ? next : cache.slot != nullptr ? cache.slot[first_row + row] : static_cast<int>(row);
    turn(p, from, keys + row * p.d, i, slot);
  }
  if (blockIdx.x != 0) return;
  for (int item = threadIdx.x; item < (p.first_query[h + 1] - p.first_query[h]) * p.octets; item += kThreads) {
    const int query = p.first_query[h] + item / p.octets;
    __nv_bfloat16* q = p.q + b * p.q_ld + static_cast<int64_t>(query) * p.d;
    turn(p, q, q, item % p.octets, next);
  }
  if (threadIdx.x == 0) view.length[h] = count;
  if (!owned) return;
  const __nv_bfloat16* v_new = p.v + b * p.v_ld + static_cast<int64_t>(p.source[h]) * p.d;
  auto* v = static_cast<__nv_bfloat16*>(cache.v) + (first_row + length) * p.d;
  for (int i = threadIdx.x; i < p.d / 8; i += kThreads) store8(v + 8 * i, load8(v_new + 8 * i));
  if (threadIdx.x != 0) return;
  cache.position[first_row + length] = p.position[b];
  if (cache.slot != nullptr) cache.slot[first_row + length] = next;
}

}  // namespace

void rotate_cache_batch(Context& ctx, const BatchCacheRotation& args, const DecodeHeads& heads) {
  Params p{};
  p.q = args.q.row<__nv_bfloat16>(0);
  p.k = args.k.row<__nv_bfloat16>(0);
  p.v = args.v.row<__nv_bfloat16>(0);
  p.q_ld = args.q.ld, p.k_ld = args.k.ld, p.v_ld = args.v.ld;
  p.position = args.position, p.owner = args.owner;
  p.layer = args.layer, p.view = args.view;
  p.layer_stride = args.layer_stride, p.view_stride = args.view_stride;
  p.d = static_cast<int>(args.d), p.octets = static_cast<int>(args.d / 16);
  p.frequencies = args.frequencies, p.factor = args.factor;
  std::fill(std::begin(p.first_query), std::end(p.first_query), static_cast<uint16_t>(heads.Hq_lc()));
  for (int64_t i = heads.Hq_lc() - 1; i >= 0; --i) p.first_query[heads.head[i]] = static_cast<uint16_t>(i);
  std::copy(heads.source.begin(), heads.source.end(), p.source);
  // How many rows there are stands on the device alone: enough blocks to fill it, and loops.
  const int64_t pairs = heads.cache_heads() * args.q.rows;
  const int64_t blocks = std::clamp<int64_t>(4 * ctx.gpu()->multiprocessors() / pairs, 1, 64);
  launch_dependent(rotate_kernel,
                   dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(heads.cache_heads()),
                        static_cast<unsigned>(args.q.rows)),
                   dim3(kThreads), 0, stream_of(ctx), p);
}

}  // namespace restkv::gpu
