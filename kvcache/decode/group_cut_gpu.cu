// Which rows stay of heads whose rows are spread over ranks: every rank finds the same cut in what all of them sent,
// and lists its own rows.
#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/decode/group_rows_gpu.h"
#include "kvcache/decode/row_search.h"
#include "kvcache/scores/random_scores.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = kCutThreads;

struct PackArgs {
  DeviceEvictBatch batch;
  DueSlots due;
  RowCut cut;
  RowRun run;
  GroupMessage shape;
  int32_t* message;
};

// Blocks along x: rows; y: heads of the run; z: due members and its layers.
__global__ void __launch_bounds__(kThreads) pack_kernel(__grid_constant__ const PackArgs a) {
  const Place at(a.batch, a.due, a.run, blockIdx.y, blockIdx.z);
  const DeviceKvLayer& record = a.batch.layer[at.slot * a.batch.layers + at.layer];
  const int64_t first_row = record.first_row[at.head], most = a.shape.most;
  const int length = static_cast<int>(min(static_cast<int64_t>(record.length[at.head]), most));
  const uint64_t draws = random_scores_key(a.cut.seed, at.layer, (a.cut.first_head + at.head) / a.cut.heads_per_kv);
  auto* keys = reinterpret_cast<int64_t*>(a.message) + at.entry * most;
  int32_t* positions = a.message + a.shape.positions_at() + at.entry * most;
  if (blockIdx.x == 0 && threadIdx.x == 0) a.message[a.shape.counts_at() + at.entry] = length;
  for (int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); i < length;
       i += static_cast<int>(gridDim.x) * kThreads) {
    const int32_t position = record.position[first_row + i];
    positions[i] = position;
    if (!a.shape.keys) continue;
    switch (a.cut.choice) {
      case RowChoice::layer_keys: keys[i] = a.cut.keys[at.of_layer * a.cut.stride + i]; break;
      case RowChoice::head_keys:
        keys[i] = a.cut.keys[(at.of_layer * a.batch.heads + at.head) * a.cut.stride + i];
        break;
      case RowChoice::sums: keys[i] = record.sums[first_row + i]; break;
      default: keys[i] = static_cast<int64_t>(mix64(draws ^ static_cast<uint64_t>(position)) >> 40);
    }
  }
}

struct CutArgs {
  DeviceEvictBatch batch;
  DueSlots due;
  RowCut cut;
  RowRun run;
  GroupMessages messages;
  RowListsView lists;
};

// Rows before the window, of all ranks, that are kept: by keys, and of those with the cut's key the lowest positions.
struct GroupCut {
  KeyCut keys;
  int32_t last_tied;  // the highest position of those

  __device__ bool keeps(uint64_t key, int32_t position) const {
    return keys.above(key) || (keys.equal(key) && (keys.all_equal || position <= last_tied));
  }
};

struct Shared {
  CutShared search;
  int window_rows, rows;
};

// The cut that leaves `target` rows with those from window_begin on. By all threads.
__device__ GroupCut find_group_cut(Shared& s, const GroupMessages& m, int64_t entry, int target, int32_t window_begin) {
  const auto each_row = [&](auto&& body) {
    for (int r = 0; r < m.ranks; ++r) {
      const EntryRows rows(m, r, entry);
      for (int i = static_cast<int>(threadIdx.x); i < rows.count; i += kThreads)
        body(static_cast<uint64_t>(rows.keys[i]), rows.positions[i]);
    }
  };
  if (threadIdx.x == 0) s.window_rows = s.rows = 0;
  __syncthreads();
  int in_window = 0, all = 0;
  each_row([&](uint64_t, int32_t position) {
    ++all;
    if (position >= window_begin) ++in_window;
  });
  if (in_window > 0) atomicAdd(&s.window_rows, in_window);
  if (all > 0) atomicAdd(&s.rows, all);
  __syncthreads();
  const int past = s.rows - s.window_rows, k = target - s.window_rows;
  if (k >= past) return {{0, 64, 0, true}, 0};  // all of them: keys are 0 and more
  GroupCut cut{};
  cut.keys = find_key_cut(s.search, static_cast<uint32_t>(max(k, 0)), [&](auto&& body) {
    each_row([&](uint64_t key, int32_t position) {
      if (position < window_begin) body(key);
    });
  });
  if (cut.keys.all_equal || cut.keys.wanted == 0) {
    cut.last_tied = -1;
    return cut;
  }
  // Lower positions come first: the wanted-th largest of their complements. All positions differ.
  Prefix prefix;
  uint32_t wanted = cut.keys.wanted;
  while (prefix.known < 32) {
    const Choice choice =
        next_digit<1 << kListBits>(s.search.histogram, &s.search.choice, prefix, wanted, kListBits, [&](auto&& body) {
          each_row([&](uint64_t key, int32_t position) {
            if (position < window_begin && cut.keys.equal(key))
              body(static_cast<uint64_t>(~static_cast<uint32_t>(position)) << 32);
          });
        });
    wanted = choice.wanted;
  }
  cut.last_tied = static_cast<int32_t>(~static_cast<uint32_t>(prefix.prefix));
  return cut;
}

// Blocks along x: heads of the run; y: due members and its layers.
__global__ void __launch_bounds__(kThreads) cut_group_kernel(__grid_constant__ const CutArgs a) {
  __shared__ Shared s;
  const Place at(a.batch, a.due, a.run, blockIdx.x, blockIdx.y);
  const DeviceKvLayer& record = a.batch.layer[at.slot * a.batch.layers + at.layer];
  const int64_t of_head = at.layer * a.batch.heads + at.head, first_row = record.first_row[at.head];
  const DeviceEvictRecord& own = a.batch.record[at.slot];
  const int n = record.length[at.head], next = a.batch.position[at.slot], total = own.excess[of_head] + next;
  const bool is_due = total > own.limits[2 * of_head];
  int target = own.limits[2 * of_head + 1];
  if (a.cut.choice == RowChoice::ladder) target = static_cast<int>(a.cut.step[at.member].length);
  if (!is_due) {
    if (threadIdx.x == 0) a.lists.counts[at.entry] = -1;
    return;
  }
  const int32_t* position = record.position + first_row;
  const int64_t told = a.messages.of_layer ? static_cast<int64_t>(blockIdx.y) : at.entry;
  int kept = 0;
  if (a.cut.choice == RowChoice::position) {
    const int sinks = static_cast<int>(a.cut.sinks), recent = next - (target - sinks);
    kept = list_own(s.search, n, a.lists, at.entry, [&](int i, int32_t& slot) {
      const int32_t p = position[i];
      if (a.lists.slots != nullptr) slot = p < sinks ? p : record.slot[first_row + i] - (total - target);
      return p < sinks || p >= recent;
    });
  } else if (a.cut.choice == RowChoice::ladder) {
    const LadderCuts cuts = a.cut.step[at.member].of_layer(a.cut.ladder, at.layer);
    kept = list_own(s.search, n, a.lists, at.entry, [&](int i, int32_t& slot) {
      const int64_t now = record.slot != nullptr ? record.slot[first_row + i] : place_of(a.messages, told, position[i]);
      slot = static_cast<int32_t>(cuts.place(now));
      return slot >= 0;
    });
  } else {
    const int32_t window_begin = next - static_cast<int32_t>(a.cut.window);
    const GroupCut cut = find_group_cut(s, a.messages, told, target, window_begin);
    const EntryRows mine(a.messages, a.messages.rank, told);
    kept = list_own(s.search, min(n, mine.count), a.lists, at.entry, [&](int i, int32_t&) {
      return position[i] >= window_begin || cut.keeps(static_cast<uint64_t>(mine.keys[i]), position[i]);
    });
  }
  __syncthreads();  // all have read what follows from the old total
  if (threadIdx.x != 0) return;
  a.lists.counts[at.entry] = kept;
  own.excess[of_head] = target - next;
  if (record.total != nullptr) record.total[at.head] = target;
}

unsigned row_blocks(int64_t most) {
  return static_cast<unsigned>(std::clamp<int64_t>((most + kThreads - 1) / kThreads, 1, 64));
}

}  // namespace

void pack_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowCut& cut, const RowRun& run,
               const GroupMessage& shape, int32_t* message) {
  const int64_t deep = due.count * run.layers;
  if (deep * run.heads == 0) return;
  RESTKV_CHECK(shape.entries == deep * run.heads && deep <= 65535 && run.heads <= 65535,
               "a message of {} entries for {} layers of {} heads", shape.entries, deep, run.heads);
  const dim3 grid(row_blocks(shape.most), static_cast<unsigned>(run.heads), static_cast<unsigned>(deep));
  pack_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(PackArgs{batch, due, cut, run, shape, message});
  RESTKV_KERNEL_CHECK();
}

void cut_group_rows(Context& ctx, const DeviceEvictBatch& batch, const DueSlots& due, const RowCut& cut,
                    const RowRun& run, const GroupMessages& messages, const RowListsView& lists) {
  const int64_t deep = due.count * run.layers;
  if (deep * run.heads == 0) return;
  RESTKV_CHECK(deep <= 65535, "{} layers of due members", deep);
  const dim3 grid(static_cast<unsigned>(run.heads), static_cast<unsigned>(deep));
  cut_group_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(CutArgs{batch, due, cut, run, messages, lists});
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
