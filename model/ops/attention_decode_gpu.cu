// Decode attention over ragged caches. A head's rows are cut into splits (decode_splits.h); a block of four warps goes
// through one or several of them, each warp taking every fourth unit of sixteen rows, and the block that arrives last
// merges the splits in order.
#include <algorithm>

#include "dist/base/gpu_launch.h"
#include "dist/base/gpu_math.h"
#include "model/ops/attention_decode.h"
#include "model/ops/decode_splits.h"
#include "model/ops/gpu_decode_tile.h"

namespace restkv::gpu {
namespace {

constexpr int kWarps = kDecodeTile / kUnitRows;
constexpr int kThreads = 32 * kWarps;
constexpr float kNone = -INFINITY;
constexpr float kLn2 = 0.693147180559945f;

struct Params {
  const __nv_bfloat16 *q, *k, *v;
  int64_t q_ld, k_ld, v_ld, out_ld, layer_stride;
  const int32_t *position, *owner;
  const DeviceKvLayer* layer;
  __nv_bfloat16* out;
  float *out_f32, *lse;
  uint32_t* arrived;   // [batch, heads] blocks that are done; zero between launches
  float* split_out;    // [batch, Hq, max_splits, d] not normalised
  float2* split_sums;  // [batch, Hq, max_splits] maximum and sum of exp, in units of log2
  float scale_log2;
  ScoreCap cap;
  int d, Hq, max_splits, sliding_window;
  bool settled;
  uint16_t first_query[kMaxCacheHeads + 1], source[kMaxCacheHeads];
};

// One cache head of one sequence, and this block's part of it.
struct Head : HeadRows {
  int64_t first_row;  // of the head in its layer's arrays
  int b, h, query, group;
  int split_rows, splits;
};

template <int D>
__host__ __device__ constexpr int merge_row() {
  return D + 4;  // floats; turns the rows' banks
}
template <int D, int kStages>
constexpr int shared_bytes(int group) {
  return kWarps * (UnitLayout<D, kStages>::kWarpBytes + group * merge_row<D>() * int{sizeof(float)});
}

// Leaves out the cached rows before the sliding window of the new token: those that stand before the first row whose
// position it sees. Mostly the cache holds every position, and that row is known but for one look.
__device__ __forceinline__ void begin_at_window(const Params& p, Head& head, const DeviceKvLayer* layer) {
  const int32_t* position = layer->position + head.first_row;
  const int first_position = __ldcg(p.position + head.b) + 1 - p.sliding_window;
  if (first_position <= 0) return;
  int first = min(first_position, head.length);  // rows [0, first) are before it
  const bool right = (first == 0 || __ldcg(position + first - 1) < first_position) &&
                     (first == head.length || __ldcg(position + first) >= first_position);
  for (int low = 0, high = head.length; !right && low < high;) {
    const int middle = (low + high) / 2;
    if (__ldcg(position + middle) < first_position)
      low = middle + 1;
    else
      high = middle;
    first = low;
  }
  head.first_row += first;
  head.length -= first;
}

// d: the head size, a constant where the compiler knows it.
__device__ __forceinline__ Head find_head(const Params& p, int b, int h, int d) {
  Head head;
  head.b = b;
  head.h = h;
  head.query = p.first_query[h];
  head.group = p.first_query[h + 1] - head.query;
  head.d = d;
  const DeviceKvLayer* layer = p.layer + b * p.layer_stride;
  auto* k = static_cast<const __nv_bfloat16*>(layer->k);
  auto* v = static_cast<const __nv_bfloat16*>(layer->v);
  const int64_t* first_row = layer->first_row;
  const int32_t* length = layer->length;
  bool owned = length != nullptr && (p.owner == nullptr || __ldcg(p.owner + b) != 0);
  head.first_row = length == nullptr ? 0 : __ldcg(reinterpret_cast<const long long*>(first_row) + h);
  head.length = length == nullptr ? 0 : __ldcg(length + h);
  if (p.sliding_window > 0 && head.length > 0) begin_at_window(p, head, layer);
  head.count = head.length + (owned ? 1 : 0);
  head.k = k + head.first_row * head.d;
  head.v = v + head.first_row * head.d;
  head.k_new = p.k + b * p.k_ld + static_cast<int64_t>(p.source[h]) * head.d;
  head.v_new = p.v + b * p.v_ld + static_cast<int64_t>(p.source[h]) * head.d;
  head.split_rows = decode_split_rows(head.count, p.max_splits);
  head.splits = (head.count + head.split_rows - 1) / head.split_rows;
  return head;
}

// The new token's rows go to the end of the cache; no block of this launch reads them there.
__device__ __forceinline__ void append(const Params& p, const Head& head) {
  if (head.count == head.length) return;
  const DeviceKvLayer* layer = p.layer + head.b * p.layer_stride;
  int64_t row = head.first_row + head.length;
  int chunks = head.d / 8, i = threadIdx.x;
  if (i < 2 * chunks) {
    bool is_v = i >= chunks;
    int c = is_v ? i - chunks : i;
    uint4 value = __ldcg(reinterpret_cast<const uint4*>(is_v ? head.v_new : head.k_new) + c);
    auto* to = static_cast<__nv_bfloat16*>(is_v ? layer->v : layer->k) + row * head.d;
    reinterpret_cast<uint4*>(to)[c] = value;
  } else if (i == kThreads - 1) {
    layer->position[row] = __ldcg(p.position + head.b);
  }
}

__device__ __forceinline__ int64_t split_index(const Params& p, const Head& head, int member, int split) {
  return (static_cast<int64_t>(head.b) * p.Hq + head.query + member) * p.max_splits + split;
}

// Four normalised outputs of one query head.
__device__ __forceinline__ void write_out(const Params& p, const Head& head, int member, int c, float4 x) {
  int64_t query = head.query + member;
  if (p.out != nullptr) {
    __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
    *reinterpret_cast<uint2*>(p.out + head.b * p.out_ld + query * head.d + c) = *reinterpret_cast<uint2*>(pair);
  }
  if (p.out_f32 != nullptr)
    *reinterpret_cast<float4*>(p.out_f32 + (static_cast<int64_t>(head.b) * p.Hq + query) * head.d + c) = x;
}

__device__ __forceinline__ void write_empty(const Params& p, const Head& head) {
  int row = head.d / 4;
  for (int item = threadIdx.x; item < head.group * row; item += kThreads)
    write_out(p, head, item / row, item % row * 4, make_float4(0.0f, 0.0f, 0.0f, 0.0f));
  if (p.lse != nullptr && static_cast<int>(threadIdx.x) < head.group)
    p.lse[static_cast<int64_t>(head.b) * p.Hq + head.query + threadIdx.x] = kNone;
}

// Folds the four warps' parts of a split, in warp order, and puts the result where the merge finds it.
template <int D, int kTiles>
__device__ __forceinline__ void finish_split(const Params& p, const Head& head, int split, Gathered<D, kTiles>& g,
                                             float* rows, float2 (*sums)[kMaxDecodeGroup]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float sum = g.l[n][j];
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
      if (lane < 4) sums[warp][8 * n + 2 * lane + j] = make_float2(g.m[n][j], sum);
    }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int member = 8 * n + 2 * (lane % 4) + j;
      if (member >= head.group) continue;
      float highest = kNone;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, sums[w][member].x);
      float shrink = exp2f(g.m[n][j] - highest);
      float* row = rows + (warp * head.group + member) * merge_row<D>() + lane / 4;
#pragma unroll
      for (int t = 0; t < D / 16; ++t) {
        row[16 * t] = g.o[n][t][j] * shrink;
        row[16 * t + 8] = g.o[n][t][j + 2] * shrink;
      }
    }
  if (static_cast<int>(threadIdx.x) < head.group) {
    float highest = kNone, sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, sums[w][threadIdx.x].x);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w][threadIdx.x].y * exp2f(sums[w][threadIdx.x].x - highest);
    __stcg(p.split_sums + split_index(p, head, threadIdx.x, split), make_float2(highest, sum));
  }
  __syncthreads();
  for (int item = threadIdx.x, per_row = head.d / 4; item < head.group * per_row; item += kThreads) {
    int member = item / per_row, c = item % per_row * 4;
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      float4 y = *reinterpret_cast<const float4*>(rows + (w * head.group + member) * merge_row<D>() + c);
      x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w;
    }
    __stcg(reinterpret_cast<float4*>(p.split_out + split_index(p, head, member, split) * head.d + c), x);
  }
}

// Adds one; what this thread (and, before a barrier, its block) wrote is seen by whoever comes later, and the other way
// round. One instruction with the right order costs half of an atomicAdd between two __threadfence().
__device__ __forceinline__ uint32_t count_arrival(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Whether this block is the last of `blocks` to have stored its splits.
__device__ __forceinline__ bool arrives_last(const Params& p, const Head& head, int heads, int blocks) {
  __shared__ bool last;
  __syncthreads();
  if (blocks == 1) return true;
  if (threadIdx.x == 0) {
    uint32_t* counter = p.arrived + head.b * heads + head.h;
    last = count_arrival(counter) == static_cast<uint32_t>(blocks - 1);
    if (last) *counter = 0;  // for the next launch
  }
  __syncthreads();
  return last;
}

constexpr int kSplitsPerLane = 4;  // 128 splits at most
constexpr int kLoads = 16;

// Maxima and sums of one query head's splits: split 32 i + lane in mine[i].
__device__ __forceinline__ void load_sums(const Params& p, const Head& head, int member,
                                          float2 (&mine)[kSplitsPerLane]) {
  const float2* sums = p.split_sums + split_index(p, head, member, 0);
#pragma unroll
  for (int i = 0; i < kSplitsPerLane; ++i) {
    int split = i * 32 + threadIdx.x % 32;
    mine[i] = make_float2(kNone, 0.0f);
    if (split < head.splits) mine[i] = __ldcg(sums + split);
  }
}

// Weights of one query head's splits, 2^(maximum - highest), to weight[split]; returns 1 / total on every lane.
__device__ __forceinline__ float weigh_splits(const Params& p, const Head& head, int member,
                                              const float2 (&mine)[kSplitsPerLane], float* weight) {
  const int lane = threadIdx.x % 32;
  float highest = kNone, total = 0.0f;
#pragma unroll
  for (int i = 0; i < kSplitsPerLane; ++i) highest = fmaxf(highest, mine[i].x);
  highest = warp_max(highest);
#pragma unroll
  for (int i = 0; i < kSplitsPerLane; ++i) {
    if (i * 32 >= head.splits) break;
    float w = exp2f(mine[i].x - highest);
    if (i * 32 + lane < head.splits) weight[i * 32 + lane] = w;
    total += w * mine[i].y;
  }
  total = warp_sum(total);
  if (lane == 0 && p.lse != nullptr)
    p.lse[static_cast<int64_t>(head.b) * p.Hq + head.query + member] = (highest + log2f(total)) * kLn2;
  return 1.0f / total;
}

// out = sum of the splits in order, normalised. `weight` [group, splits] and `inverse` [group] are shared memory.
__device__ __forceinline__ void merge_splits(const Params& p, const Head& head, float* weight, float* inverse) {
  const int per_row = head.d / 4, items = head.group * per_row, warp = threadIdx.x / 32;
  float2 sums[kSplitsPerLane];
  float4 loaded[kLoads];
  auto load = [&](int item, int first) {
    const float* from = p.split_out + split_index(p, head, item / per_row, first) * head.d + item % per_row * 4;
#pragma unroll
    for (int i = 0; i < kLoads; ++i)
      if (first + i < head.splits) loaded[i] = __ldcg(reinterpret_cast<const float4*>(from + i * head.d));
  };
  int item = threadIdx.x;
  if (warp < head.group) load_sums(p, head, warp, sums);
  if (item < items) load(item, 0);  // under way while the weights are computed
  for (int member = warp; member < head.group; member += kWarps) {
    if (member != warp) load_sums(p, head, member, sums);
    float scale = weigh_splits(p, head, member, sums, weight + member * head.splits);
    if (threadIdx.x % 32 == 0) inverse[member] = scale;
  }
  __syncthreads();
  for (; item < items; item += kThreads) {
    int member = item / per_row;
    if (item >= kThreads) load(item, 0);
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int first = 0; first < head.splits; first += kLoads) {
      if (first > 0) load(item, first);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        if (first + i >= head.splits) break;
        float w = weight[member * head.splits + first + i];
        x.x = fmaf(w, loaded[i].x, x.x), x.y = fmaf(w, loaded[i].y, x.y);
        x.z = fmaf(w, loaded[i].z, x.z), x.w = fmaf(w, loaded[i].w, x.w);
      }
    }
    float scale = inverse[member];
    write_out(p, head, member, item % per_row * 4, make_float4(x.x * scale, x.y * scale, x.z * scale, x.w * scale));
  }
}

// The rows of splits [first, last) that one warp goes through: units at row + 64 i, i in [0, units).
struct Walk {
  int row, units, tiles_per_split, split;

  __device__ Walk(const Head& head, int first, int last)
      : tiles_per_split(head.split_rows / kDecodeTile), split(first) {
    int begin = first * head.split_rows, end = min(last * head.split_rows, head.count);
    row = begin + static_cast<int>(threadIdx.x) / 32 * kUnitRows;
    units = (end - begin + kDecodeTile - 1) / kDecodeTile;
  }
};

// Everything between the first copies and the last split stored. The copies of the first kStages units are under way.
template <int D, int kTiles, int kStages>
__device__ __forceinline__ void attend(const Params& p, const Head& head, Walk walk, unsigned char* units, float* rows,
                                       float2 (*sums)[kMaxDecodeGroup], const Queries<D, kTiles>& queries) {
  constexpr int kBytes = UnitLayout<D, kStages>::kBytes;
  unsigned char* value_units = units + kStages * kBytes;
  Gathered<D, kTiles> gathered;
  gathered.clear();
  int left = walk.tiles_per_split, stage = 0;
  for (int i = 0; i < walk.units; ++i) {
    int row = walk.row + i * kDecodeTile, next = row + kStages * kDecodeTile;
    bool more = i + kStages < walk.units, any = row < head.count;
    unsigned char *keys = units + stage, *values = value_units + stage;
    uint32_t weights[kTiles][2];
    wait_copy_groups<2 * kStages - 1>();  // this unit's keys are there
    if (any) {
      float s[kTiles][4];
      score_unit<D, kTiles>(s, keys, queries, head.count - row, p.scale_log2, p.cap);
      weigh_unit<D, kTiles>(weights, s, gathered);
    }
    __syncwarp();
    if (more) fetch_unit<D, true, false>(shared_address(keys), head.k, head.k_new, next, head);
    end_copy_group();
    wait_copy_groups<2 * kStages - 1>();  // its values too
    if (any) add_values<D, kTiles>(gathered, shared_address(values), weights);
    __syncwarp();
    if (more) fetch_unit<D, false, false>(shared_address(values), head.v, head.v_new, next, head);
    end_copy_group();
    stage = stage + kBytes == kStages * kBytes ? 0 : stage + kBytes;
    if (--left == 0 || i + 1 == walk.units) {
      finish_split<D, kTiles>(p, head, walk.split++, gathered, rows, sums);
      gathered.clear();
      left = walk.tiles_per_split;
    }
  }
  wait_copy_groups<0>();
}

// kExact: the model's head size is D.
template <int D, bool kExact, int kTiles, int kStages>
__global__ void __launch_bounds__(kThreads) attend_kernel(const __grid_constant__ Params p) {
  using Layout = UnitLayout<D, kStages>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ float2 sums[kWarps][kMaxDecodeGroup];
  __shared__ float inverse[kMaxDecodeGroup];
  if (!p.settled) wait_for_previous();
  const Head head = find_head(p, blockIdx.z, blockIdx.y, kExact ? D : p.d);
  const int blocks = max(min(static_cast<int>(gridDim.x), head.splits), 1), x = blockIdx.x;
  if (x >= blocks) return;
  if (head.count == 0) {
    if (p.settled) wait_for_previous();
    write_empty(p, head);
    return;
  }
  Walk walk(head, head.splits * x / blocks, head.splits * (x + 1) / blocks);
  unsigned char* units = shared + threadIdx.x / 32 * Layout::kWarpBytes;
  unsigned char* value_units = units + kStages * Layout::kBytes;
#pragma unroll
  for (int i = 0; i < kStages; ++i) {
    int row = walk.row + i * kDecodeTile;
    uint32_t to = shared_address(units) + i * Layout::kBytes, value_to = to + kStages * Layout::kBytes;
    if (i < walk.units) fetch_unit<D, true, true>(to, head.k, head.k_new, row, head);
    end_copy_group();
    if (i < walk.units) fetch_unit<D, false, true>(value_to, head.v, head.v_new, row, head);
    end_copy_group();
  }
  let_next_start();
  if (p.settled) wait_for_previous();
  Queries<D, kTiles> queries;
  queries.load(p.q + head.b * p.q_ld + static_cast<int64_t>(head.query) * head.d, head.group, head.d);
  if (head.count > head.length) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      int r = head.length - (walk.row + i * kDecodeTile);
      if (i >= walk.units || r < 0 || r >= kUnitRows) continue;
      store_new_row<D, true>(units + i * Layout::kBytes, head.k_new, r, head.d);
      store_new_row<D, false>(value_units + i * Layout::kBytes, head.v_new, r, head.d);
    }
    if (x == 0) append(p, head);
  }
  float* rows = reinterpret_cast<float*>(shared + kWarps * Layout::kWarpBytes);
  attend<D, kTiles, kStages>(p, head, walk, units, rows, sums, queries);
  if (arrives_last(p, head, gridDim.y, blocks)) merge_splits(p, head, rows, inverse);
}

Params params_of(const BatchDecodeAttention& args, const DecodeHeads& heads, const Tensor& scratch) {
  int64_t batch = args.q.rows, counters = kMaxAttentionBatch * kMaxCacheHeads;
  Params p;
  p.q = args.q.row<__nv_bfloat16>(0);
  p.k = args.k.row<__nv_bfloat16>(0);
  p.v = args.v.row<__nv_bfloat16>(0);
  p.q_ld = args.q.ld, p.k_ld = args.k.ld, p.v_ld = args.v.ld, p.out_ld = args.out.ld;
  p.layer_stride = args.layer_stride;
  p.position = args.position, p.owner = args.owner, p.layer = args.layer;
  p.out = args.out.row<__nv_bfloat16>(0);
  p.out_f32 = args.out_f32, p.lse = args.lse;
  constexpr double kLog2E = 1.4426950408889634;
  p.scale_log2 = static_cast<float>(args.scale * kLog2E);
  if (args.softcap > 0.0)
    p.cap = {static_cast<float>(args.softcap * kLog2E), static_cast<float>(1.0 / (args.softcap * kLog2E))};
  p.sliding_window = static_cast<int>(args.sliding_window);
  p.d = static_cast<int>(args.d), p.Hq = static_cast<int>(heads.Hq_lc());
  p.max_splits = max_decode_splits(heads.cache_heads());
  p.settled = args.settled;
  int64_t partials = batch * heads.Hq_lc() * p.max_splits;
  int64_t bytes = counters * int64_t{sizeof(uint32_t)} + partials * (args.d + 2) * int64_t{sizeof(float)};
  RESTKV_CHECK(scratch.bytes() >= bytes, "attention_decode_batch: {} bytes of scratch, {} needed", scratch.bytes(),
               bytes);
  p.arrived = static_cast<uint32_t*>(scratch.raw());
  p.split_out = reinterpret_cast<float*>(p.arrived + counters);
  p.split_sums = reinterpret_cast<float2*>(p.split_out + partials * args.d);
  std::fill(std::begin(p.first_query), std::end(p.first_query), static_cast<uint16_t>(heads.Hq_lc()));
  for (int64_t i = heads.Hq_lc() - 1; i >= 0; --i) p.first_query[heads.head[i]] = static_cast<uint16_t>(i);
  std::fill(std::begin(p.source), std::end(p.source), uint16_t{0});
  std::copy(heads.source.begin(), heads.source.end(), p.source);
  return p;
}

// How a launch fills the GPU.
struct Filling {
  dim3 grid;
  int group;   // the most query heads of one cache head
  int depth;   // 1 to 3: shared memory for about 32, 64 or 96 KB of rows on their way, per block
  bool alone;  // one block per multiprocessor
};

template <int D, bool kExact, int kTiles, int kStages>
void launch_stages(const Params& p, const Filling& filling, cudaStream_t stream) {
  constexpr int kMoreThanHalf = 116 << 10;  // of a multiprocessor's shared memory
  auto* kernel = attend_kernel<D, kExact, kTiles, kStages>;
  int bytes = shared_bytes<D, kStages>(filling.group);
  if (filling.alone) bytes = std::max(bytes, kMoreThanHalf);
  int most = std::max(shared_bytes<D, kStages>(kTiles * 8), kMoreThanHalf);
  RESTKV_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  RESTKV_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  launch_dependent(kernel, filling.grid, dim3(kThreads), static_cast<size_t>(bytes), stream, p);
}

// The usual case, d = D and at most eight query heads, has all depths; the others the middle one.
template <int D, int kShallow, int kMiddle, int kDeep>
void launch_attend(const Params& p, const Filling& filling, cudaStream_t stream) {
  bool one_tile = filling.group <= 8;
  if (p.d != D)
    one_tile ? launch_stages<D, false, 1, kMiddle>(p, filling, stream)
             : launch_stages<D, false, 2, kMiddle>(p, filling, stream);
  else if (!one_tile)
    launch_stages<D, true, 2, kMiddle>(p, filling, stream);
  else if (filling.depth == 1)
    launch_stages<D, true, 1, kShallow>(p, filling, stream);
  else if (filling.depth == 2)
    launch_stages<D, true, 1, kMiddle>(p, filling, stream);
  else
    launch_stages<D, true, 1, kDeep>(p, filling, stream);
}

// Few pairs of sequence and head: a block per split, each alone on its multiprocessor, which keeps the work even when
// kernels overlap. Many: blocks of several splits, several of them per multiprocessor.
Filling fill(const Context& ctx, const BatchDecodeAttention& args, const Params& p, int64_t heads) {
  int64_t pairs = args.q.rows * heads, processors = ctx.gpu()->multiprocessors();
  int64_t blocks = p.max_splits, depth = 3;
  if (pairs * p.max_splits > 2 * processors) {
    blocks = std::max<int64_t>(4 * processors / pairs, 1);
    depth = 1;
  }
  if (args.blocks_per_head > 0) blocks = args.blocks_per_head;
  if (args.depth > 0) depth = args.depth;
  blocks = std::min<int64_t>(blocks, p.max_splits);
  Filling filling;
  filling.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(heads), static_cast<unsigned>(args.q.rows));
  filling.group = 0;
  for (int64_t h = 0; h < heads; ++h) filling.group = std::max(filling.group, p.first_query[h + 1] - p.first_query[h]);
  filling.depth = static_cast<int>(depth);
  filling.alone = blocks * pairs <= processors;
  return filling;
}

}  // namespace

void attention_decode_batch(Context& ctx, const BatchDecodeAttention& args, const DecodeHeads& heads,
                            const Tensor& scratch) {
  Params p = params_of(args, heads, scratch);
  Filling filling = fill(ctx, args, p, heads.cache_heads());
  if (args.d <= 64)
    launch_attend<64, 2, 4, 6>(p, filling, stream_of(ctx));
  else if (args.d <= 128)
    launch_attend<128, 1, 2, 3>(p, filling, stream_of(ctx));
  else
    launch_attend<256, 1, 1, 2>(p, filling, stream_of(ctx));
}

}  // namespace restkv::gpu
