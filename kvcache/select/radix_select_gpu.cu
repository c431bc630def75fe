// The exact top-k on a GPU, for one rank: the values are read once, by all multiprocessors, and a row's cut is then
// found among a few thousand candidates.
//   1. guess_bounds: a spread sample of each row says between which two values the k-th largest lies, very likely.
//   2. gather_candidates: counts (and sums the positions of) the values above the upper bound, and lists those between
//      the bounds. Where an op before the selection reads all values anyway, it does this beside (select_top_beside()).
//   3. resolve (resolve_gpu.cu): when the counts say that the k-th largest is among the listed ones, radix select on
//      them; when not (bounds that missed, too many equal values), radix select on the whole row, by one block.
// Counts decide which way a row goes, so the result is exact whatever the sample was. Rows of at most kCandidates
// values start with step 3.
#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/row_state.h"
#include "kvcache/select/radix_pass.h"

namespace restkv::gpu {
namespace {

constexpr int kSamples = 32;  // per thread of guess_bounds
constexpr int kSector = 8;    // neighbours that are sampled together
constexpr int kGatherThreads = 256;
constexpr int kWarps = kGatherThreads / 32;
constexpr int kWarpList = kCandidates / kWarps;
constexpr uint32_t kKeyOfMinusInf = 0x007fffffu;
constexpr int64_t kMostListed = kCandidates / 2;  // the largest k whose whole top set is listed

// The value with this key; what lies below -inf (NaN) counts as -inf.
__device__ float value_of(uint32_t key) {
  if (key <= kKeyOfMinusInf) return -INFINITY;
  return __uint_as_float((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

// The samples of one row: sectors of neighbours, one somewhere in each of equal strata of the row.
__device__ void load_samples(const float* values, const Runs& runs, uint32_t (&keys)[kSamples]) {
  const uint32_t total = static_cast<uint32_t>(runs.total());
  const int strata_log2 = __ffs(static_cast<int>(blockDim.x) * kSamples / kSector) - 1;
  const uint32_t room = (total >> strata_log2) - (kSector - 1);  // places of a sector in its stratum
#pragma unroll
  for (int j = 0; j < kSamples; ++j) {
    const uint32_t sample = j * blockDim.x + threadIdx.x, stratum = sample / kSector;
    const uint32_t first = static_cast<uint32_t>(static_cast<uint64_t>(total) * stratum >> strata_log2);
    const uint32_t start = (first + __umulhi(stratum * 2654435769u, room)) / kSector * kSector;
    keys[j] = key_of(values[runs.local(start + sample % kSector)]);
  }
}

// Moves `key` up by 1 << bit when at least `rank` samples reach that; done when not many more do. `counter` starts at
// 0.
__device__ void raise(const uint32_t (&keys)[kSamples], int bit, int rank, int slack, uint32_t* counter, uint32_t& key,
                      bool& done) {
  const uint32_t higher = key | 1u << bit;
  uint32_t reach = 0;
#pragma unroll
  for (int j = 0; j < kSamples; ++j) reach += keys[j] >= higher ? 1u : 0u;
  reach = __reduce_add_sync(0xffffffffu, reach);
  if (threadIdx.x % 32 == 0) atomicAdd(counter, reach);
  __syncthreads();
  const int all = static_cast<int>(*counter);
  if (all < rank) return;
  key = higher;
  done = all <= rank + slack;
}

// One block per row. The number of threads is a power of two; rows have at least kSector values per stratum.
// all_above: no upper bound, so that all of the k largest are listed.
__global__ void __launch_bounds__(1024) guess_bounds(RowValues input, bool all_above, RowState* states) {
  __shared__ uint32_t low_counts[32], high_counts[32];
  const int64_t row = blockIdx.x;
  uint32_t keys[kSamples];
  load_samples(input.row(row), input.runs, keys);
  if (threadIdx.x < 32) low_counts[threadIdx.x] = high_counts[threadIdx.x] = 0;

  // Ranks in the sample between which the k-th largest of the row should lie.
  const int samples = static_cast<int>(blockDim.x) * kSamples;
  const float part = static_cast<float>(samples) / static_cast<float>(input.runs.total());
  const float middle = static_cast<float>(input.k(row)) * part, half = 0.35f * kCandidates * part;
  const int low_rank = static_cast<int>(ceilf(middle + half));
  const int high_rank = all_above ? 0 : static_cast<int>(floorf(middle - half));
  const int slack = static_cast<int>(half / 8.0f) + 1;

  uint32_t low = 0, high = 0;
  bool low_done = low_rank > samples, high_done = high_rank < 1;
  __syncthreads();
  // Bit by bit the largest key that at least so many samples reach; near enough is good enough.
  for (int bit = 31; bit >= 0 && !(low_done && high_done); --bit) {
    if (!low_done) raise(keys, bit, low_rank, slack, low_counts + bit, low, low_done);
    if (!high_done) raise(keys, bit, high_rank, slack, high_counts + bit, high, high_done);
  }
  if (threadIdx.x == 0)
    states[row] = {low_rank > samples ? -INFINITY : value_of(low), high_rank < 1 ? INFINITY : value_of(high), 0, 0, 0};
}

// One warp's part of a piece: what lies above the upper bound, per lane, and the list of candidates.
struct WarpFindings {
  uint64_t* list;  // [kWarpList] in shared memory
  uint32_t listed = 0;
  uint32_t above = 0;
  unsigned long long position = 0;
};

// The lanes' candidates join the list: `in` has a bit for each, at offset(bit) from `values` and `position`. By the
// whole warp. The values are read again (from the cache next to it): an index into registers would put them in memory.
template <class Offset>
__device__ void list_candidates(uint32_t in, Offset offset, const float* values, uint32_t position, WarpFindings& w) {
  const uint32_t below = (1u << (threadIdx.x % 32)) - 1;
  for (uint32_t lanes = __ballot_sync(0xffffffffu, in != 0); lanes != 0; lanes = __ballot_sync(0xffffffffu, in != 0)) {
    if (in != 0) {
      const uint32_t at = w.listed + __popc(lanes & below), from = offset(__ffs(static_cast<int>(in)) - 1);
      if (at < kWarpList) w.list[at] = rank_of(__ldg(values + from), position + from);
      in &= in - 1;
    }
    w.listed += __popc(lanes);
  }
}

// All lanes' N values x[i] = values[offset(i)], where `bounded` says whether there is an upper bound. NaN is neither
// above nor a candidate.
template <int N, class Offset>
__device__ void sort_in(const float (&x)[N], Offset offset, const float* values, uint32_t position, float low,
                        float high, bool bounded, WarpFindings& w) {
  uint32_t in = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) in |= x[i] >= low ? 1u << i : 0u;
  if (bounded) {
    uint32_t above = 0, offsets = 0;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (x[i] > high) {
        above |= 1u << i;
        offsets += offset(i);
      }
    in &= ~above;
    const uint32_t count = __popc(above);
    w.above += count;
    w.position += static_cast<unsigned long long>(count) * position + offsets;
  }
  list_candidates(in, offset, values, position, w);
}

// The warp's share of `count` neighbours whose first has the global position `position`.
__device__ void scan_piece(const float* values, int count, uint32_t position, float low, float high, WarpFindings& w) {
  constexpr int kVectors = 4;
  const int tid = static_cast<int>(threadIdx.x);
  const bool bounded = high < INFINITY;
  // Scalars up to the first 16-byte boundary, and behind the last: all with the first warp.
  const int head = min(count, static_cast<int>((16 - reinterpret_cast<uintptr_t>(values) % 16) % 16 / 4));
  const int vectors = (count - head) / 4, tail = head + 4 * vectors;
  if (tid < 32 && head + count - tail > 0) {
    const int edge = tid < head ? tid : tid - head + tail;
    const bool mine = tid < head + count - tail;
    const float x[1] = {mine ? __ldg(values + edge) : NAN};
    sort_in(
        x, [edge](int) { return static_cast<uint32_t>(edge); }, values, position, low, high, bounded, w);
  }
  const float4* body = reinterpret_cast<const float4*>(values + head);
  for (int first = 0; first < vectors; first += kVectors * kGatherThreads) {
    float x[4 * kVectors];
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      const int at = first + u * kGatherThreads + tid;
      const float4 v = at < vectors ? __ldg(body + at) : make_float4(NAN, NAN, NAN, NAN);
      x[4 * u] = v.x, x[4 * u + 1] = v.y, x[4 * u + 2] = v.z, x[4 * u + 3] = v.w;
    }
    const int start = head + 4 * (first + tid);
    sort_in(
        x, [](int i) { return static_cast<uint32_t>((i & ~3) * kGatherThreads + (i & 3)); }, values + start,
        position + static_cast<uint32_t>(start), low, high, bounded, w);
  }
}

// Block b works on piece b % pieces of row b / pieces; its warps work alone.
__global__ void __launch_bounds__(kGatherThreads)
    gather_candidates(const float* values, int64_t stride, Pieces pieces, RowState* states, uint64_t* candidates) {
  __shared__ uint64_t lists[kWarps][kWarpList];
  const uint32_t row = blockIdx.x / static_cast<uint32_t>(pieces.count());
  const Piece piece = pieces.at(static_cast<int>(blockIdx.x - row * static_cast<uint32_t>(pieces.count())));
  RowState* state = states + row;
  WarpFindings w{lists[threadIdx.x / 32]};
  scan_piece(values + row * stride + piece.local, piece.count, static_cast<uint32_t>(piece.global), state->low,
             state->high, w);
  const uint32_t above = __reduce_add_sync(0xffffffffu, w.above);
  const uint32_t lane = threadIdx.x % 32;
  if (above != 0) {
    for (int offset = 16; offset > 0; offset /= 2) w.position += __shfl_xor_sync(0xffffffffu, w.position, offset);
    if (lane == 0) {
      atomicAdd(&state->above, above);
      atomicAdd(&state->position, w.position);
    }
  }
  if (w.listed == 0) return;
  // A warp that lists too many spoils the row, whatever the others list.
  uint32_t base = 0;
  if (lane == 0) base = atomicAdd(&state->candidates, w.listed <= kWarpList ? w.listed : kCandidates + 1);
  base = __shfl_sync(0xffffffffu, base, 0);
  __syncwarp();
  for (uint32_t i = lane; i < min(w.listed, static_cast<uint32_t>(kWarpList)) && base + i < kCandidates; i += 32)
    candidates[static_cast<int64_t>(row) * kCandidates + base + i] = w.list[i];
}

// A power of two of threads with which at least one of 32 values is sampled, up to 2^20 values.
int sample_threads(int64_t total) {
  int threads = 128;
  while (threads < 1024 && threads * int64_t{1024} < total) threads *= 2;
  return threads;
}

// The pass over the values, where nobody else makes it.
void gather(cudaStream_t stream, const RowValues& input, int64_t rows, RowState* states, uint64_t* candidates) {
  const int64_t total = input.runs.total();
  const Pieces pieces(input.runs, rows * total >= (int64_t{1} << 23) ? 16384 : 4096);
  RESTKV_CHECK(rows * pieces.count() < INT32_MAX, "{} rows of {} values", rows, total);
  gather_candidates<<<static_cast<unsigned>(rows * pieces.count()), kGatherThreads, 0, stream>>>(
      input.values, input.stride, pieces, states, candidates);
  RESTKV_KERNEL_CHECK();
}

// The cuts, and what else is asked for, of rows whose values are all here.
void search(Context& ctx, const RowValues& rows, int64_t count, bool all_above, const RowResults& results,
            const ReadValues& read) {
  const cudaStream_t stream = stream_of(ctx);
  const int64_t total = rows.runs.total();
  Tensor states, candidates;
  RowState* state = nullptr;
  uint64_t* candidate = nullptr;
  if (total <= kCandidates) {
    if (read != nullptr) read(nullptr);
  } else {
    states = ctx.empty(DType::u8, {count, static_cast<int64_t>(sizeof(RowState))});
    candidates = ctx.empty(DType::u64, {count, kCandidates});
    state = static_cast<RowState*>(states.raw());
    candidate = candidates.data<uint64_t>();
    guess_bounds<<<static_cast<unsigned>(count), sample_threads(total), 0, stream>>>(rows, all_above, state);
    RESTKV_KERNEL_CHECK();
    if (read != nullptr) {
      // For so small a k guess_bounds sets no upper bound (and a list without one would be exact too).
      const CandidateLists lists{state, candidate,
                                 !all_above && (rows.k_of_row != nullptr || rows.k_all > kCandidates / 4)};
      read(&lists);
    } else {
      gather(stream, rows, count, state, candidate);
    }
  }
  resolve(ctx, count, rows, state, candidate, results);
}

// top[row][i] = rank of the value that lists[row][i] (a local index) names; behind counts[row] nothing is written.
__global__ void __launch_bounds__(kGatherThreads)
    pack_ranks(RowValues input, const int32_t* lists, const int32_t* counts, int64_t capacity, uint64_t* top) {
  const int64_t row = blockIdx.y, i = static_cast<int64_t>(blockIdx.x) * kGatherThreads + threadIdx.x;
  if (i >= counts[row]) return;
  const int64_t local = lists[row * capacity + i];
  const Segment& lower = input.runs.run[0];
  const Segment& upper = input.runs.run[1];
  const int64_t shift = local < lower.local + lower.count ? lower.global - lower.local : upper.global - upper.local;
  top[row * capacity + i] = rank_of(input.row(row)[local], local + shift);
}

}  // namespace

void select_top(Context& ctx, const SelectRows& input, const uint32_t* k_of_row, uint32_t k, SelectCut* cuts,
                int32_t* tied, int64_t* sums, const ReadValues& read) {
  if (input.rows == 0) return;
  const RowValues rows{input.values, input.stride, Runs(*input.segments), k_of_row, k};
  RESTKV_CHECK(rows.runs.total() == input.total, "{} of {} values are here", rows.runs.total(), input.total);
  search(ctx, rows, input.rows, /*all_above=*/false, {cuts, tied, sums}, read);
}

void list_top(Context& ctx, const SelectRows& input, int64_t k, uint64_t* top, int64_t capacity,
              const ReadValues& read) {
  const RowValues rows{input.values, input.stride, Runs(*input.segments), nullptr, static_cast<uint32_t>(k)};
  const int64_t here = rows.runs.total();
  RESTKV_CHECK(k <= here && k <= capacity && input.rows > 0, "{} of {} values of {} rows, room for {}", k, here,
               input.rows, capacity);
  if (k < capacity) ctx.fill_zero(top, input.rows * capacity * static_cast<int64_t>(sizeof(uint64_t)));
  if (k == 0) {
    if (read != nullptr) read(nullptr);
    return;
  }
  Tensor cuts = ctx.empty(DType::u32, {input.rows, 2}), tied = ctx.empty(DType::i32, {input.rows});
  RowResults results{static_cast<SelectCut*>(cuts.raw()), tied.data<int32_t>(), nullptr, top, capacity};
  if (here <= kCandidates || k <= kMostListed) return search(ctx, rows, input.rows, /*all_above=*/true, results, read);

  // Too many for lists of candidates: the cuts first, then one more pass for what they take.
  if (read != nullptr) read(nullptr);
  results.top = nullptr;
  search(ctx, rows, input.rows, /*all_above=*/false, results, nullptr);
  RESTKV_CHECK(input.rows <= 65535, "{} rows", input.rows);
  Tensor lists = ctx.empty(DType::i32, {input.rows, capacity}), counts = ctx.empty(DType::i32, {input.rows});
  top_set_rows(ctx, input, results.cuts, {0, 0}, capacity, lists.data<int32_t>(), counts.data<int32_t>());
  const dim3 grid(static_cast<unsigned>((k + kGatherThreads - 1) / kGatherThreads), static_cast<unsigned>(input.rows));
  pack_ranks<<<grid, kGatherThreads, 0, stream_of(ctx)>>>(rows, lists.data<int32_t>(), counts.data<int32_t>(), capacity,
                                                          top);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
