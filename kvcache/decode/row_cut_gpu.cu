// Which rows stay, and their way down: one block decides for one head, others then move its rows in place.
#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/decode/device_rows.h"
#include "kvcache/decode/row_search.h"
#include "kvcache/scores/random_scores.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = kCutThreads;
constexpr int kCached = 2048;  // keys of a head that are held in shared memory

struct Shared {
  CutShared search;
  uint64_t keys[kCached];
};

// Rows [0, past) that the cut leaves, and all from there to n.
template <class KeyOf>
__device__ void list_rows(CutShared& s, const KeyCut& cut, int past, int n, KeyOf key_of_row, int32_t* rows,
                          int64_t capacity) {
  int listed = 0, equal_before = 0;
  for (int first = 0; first < n; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    bool stays = i >= past && i < n, equal = false;
    if (i < past) {
      const uint64_t key = key_of_row(i);
      equal = cut.equal(key);
      stays = cut.above(key) || (equal && cut.all_equal);
    }
    int total = 0;
    if (!cut.all_equal) {
      const int rank = equal_before + rank_in_block(equal, s.in_warp, total);
      equal_before += total;
      stays = stays || (equal && rank < static_cast<int>(cut.wanted));
    }
    const int at = listed + rank_in_block(stays, s.in_warp, total);
    listed += total;
    if (stays && at < capacity) rows[at] = i;
  }
}

// Blocks along x: heads; y: layers; z: due members.
__global__ void __launch_bounds__(kThreads)
    cut_kernel(__grid_constant__ const DeviceEvictBatch batch, __grid_constant__ const DueSlots due,
               __grid_constant__ const RowCut cut, __grid_constant__ const RowListsView lists) {
  __shared__ Shared s;
  const int64_t head = blockIdx.x, layer = blockIdx.y, member = blockIdx.z, slot = due.slot[member];
  const int64_t of_layer = member * batch.layers + layer, entry = of_layer * batch.heads + head;
  const DeviceKvLayer& record = batch.layer[slot * batch.layers + layer];
  const int32_t* limits = batch.record[slot].limits + (layer * batch.heads + head) * 2;
  const int n = record.length[head], tid = static_cast<int>(threadIdx.x);
  const bool is_due = n > limits[0];
  int target = limits[1];
  if (cut.choice == RowChoice::ladder) target = static_cast<int>(cut.step[member].length);
  if (tid == 0) lists.counts[entry] = is_due ? target : -1;
  if (!is_due) return;
  int32_t* rows = lists.rows + entry * lists.capacity;

  if (cut.choice == RowChoice::position) {
    for (int i = tid; i < target; i += kThreads) rows[i] = i < cut.sinks ? i : i + (n - target);
    return;
  }
  if (cut.choice == RowChoice::ladder) {
    const LadderCuts cuts = cut.step[member].of_layer(cut.ladder, layer);
    for (int i = tid; i < n; i += kThreads)
      if (const int64_t at = cuts.place(i); at >= 0 && at < lists.capacity) rows[at] = i;
    return;
  }
  const int64_t first_row = record.first_row[head];
  const uint64_t draws = random_scores_key(cut.seed, layer, (cut.first_head + head) / cut.heads_per_kv);
  const auto compute = [&](int i) -> uint64_t {
    switch (cut.choice) {
      case RowChoice::layer_keys: return static_cast<uint64_t>(cut.keys[of_layer * cut.stride + i]);
      case RowChoice::head_keys: return static_cast<uint64_t>(cut.keys[entry * cut.stride + i]);
      case RowChoice::sums: return static_cast<uint64_t>(record.sums[first_row + i]);
      default: return mix64(draws ^ static_cast<uint64_t>(record.position[first_row + i])) >> 40;
    }
  };
  const int past = n - static_cast<int>(cut.window);
  for (int i = tid; i < min(past, kCached); i += kThreads) s.keys[i] = compute(i);
  __syncthreads();
  const auto key_of_row = [&](int i) { return i < kCached ? s.keys[i] : compute(i); };
  const auto each = [&](auto&& body) {
    for (int i = tid; i < past; i += kThreads) body(key_of_row(i));
  };
  const KeyCut found = find_key_cut(s.search, static_cast<uint32_t>(target - cut.window), each);
  list_rows(s.search, found, past, n, key_of_row, rows, lists.capacity);
}

struct Move {
  DeviceEvictBatch batch;
  DueSlots due;
  RowRun run;
  RowListsView lists;
  int vectors;  // of 16 bytes, of a row
};

constexpr int kColumn = 8;                     // vectors of a row that one block moves
constexpr int kMoveRows = kThreads / kColumn;  // at a time
constexpr int kMoveAtOnce = 4;

// Columns of k or v. Rows only move down, in ascending order: what a pass writes, no later pass reads.
__device__ void move_columns(uint4* data, const int32_t* rows, int count, int vectors, int first_column) {
  const int column = first_column + static_cast<int>(threadIdx.x) % kColumn;
  const int mine = static_cast<int>(threadIdx.x) / kColumn;
  for (int first = 0; first < count; first += kMoveAtOnce * kMoveRows) {
    uint4 held[kMoveAtOnce];
    bool moves[kMoveAtOnce];
#pragma unroll
    for (int u = 0; u < kMoveAtOnce; ++u) {
      const int i = first + u * kMoveRows + mine;
      const int from = i < count ? rows[i] : i;
      moves[u] = column < vectors && from != i;
      if (moves[u]) held[u] = data[static_cast<int64_t>(from) * vectors + column];
    }
    __syncthreads();
#pragma unroll
    for (int u = 0; u < kMoveAtOnce; ++u)
      if (moves[u]) data[static_cast<int64_t>(first + u * kMoveRows + mine) * vectors + column] = held[u];
  }
}

// The same of numbers.
template <class T>
__device__ void move_numbers(T* data, const int32_t* rows, int count) {
  for (int first = 0; first < count; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    const T held = i < count ? data[rows[i]] : T{};
    __syncthreads();
    if (i < count) data[i] = held;
  }
}

// Blocks along x: columns of k, of v, and one for positions and sums; y: heads; z: due members and layers.
__global__ void __launch_bounds__(kThreads) move_kernel(__grid_constant__ const Move m) {
  const int64_t entry = static_cast<int64_t>(blockIdx.z) * m.run.heads + blockIdx.y;
  const int count = m.lists.counts[entry];
  if (count < 0) return;
  const int64_t slot = m.due.slot[blockIdx.z / m.run.layers];
  const int64_t layer = m.run.first_layer + blockIdx.z % m.run.layers, head = m.run.first_head + blockIdx.y;
  const DeviceKvLayer& record = m.batch.layer[slot * m.batch.layers + layer];
  const int64_t first_row = record.first_row[head];
  const int32_t* rows = m.lists.rows + entry * m.lists.capacity;
  const int columns = (m.vectors + kColumn - 1) / kColumn, part = static_cast<int>(blockIdx.x);
  if (part < 2 * columns) {
    uint4* data = static_cast<uint4*>(part < columns ? record.k : record.v) + first_row * m.vectors;
    return move_columns(data, rows, count, m.vectors, part % columns * kColumn);
  }
  move_numbers(record.position + first_row, rows, count);
  if (record.sums != nullptr) move_numbers(record.sums + first_row, rows, count);
  if (record.slot != nullptr && m.lists.slots != nullptr)
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads)
      record.slot[first_row + i] = m.lists.slots[entry * m.lists.capacity + i];
  if (threadIdx.x == 0) record.length[head] = count;
}

}  // namespace

void cut_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowCut& cut,
              const RowListsView& lists) {
  if (batch.heads == 0 || due.count == 0) return;
  const dim3 grid(static_cast<unsigned>(batch.heads), static_cast<unsigned>(batch.layers),
                  static_cast<unsigned>(due.count));
  cut_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(batch, due, cut, lists);
  RESTKV_KERNEL_CHECK();
}

void keep_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
               const RowListsView& lists) {
  if (run.heads == 0 || due.count == 0) return;
  RESTKV_CHECK(batch.d % 8 == 0, "rows of {} elements move in 16 bytes", batch.d);
  const Move move{batch, due, run, lists, static_cast<int>(batch.d / 8)};
  const int columns = (move.vectors + kColumn - 1) / kColumn;
  const dim3 grid(static_cast<unsigned>(2 * columns + 1), static_cast<unsigned>(run.heads),
                  static_cast<unsigned>(due.count * run.layers));
  move_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(move);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
