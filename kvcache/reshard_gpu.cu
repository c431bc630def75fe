// Rows of one layer that several ranks kept, merged by position into the cache.
#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/gpu/position_search.h"
#include "kvcache/reshard.h"

namespace restkv::gpu {
namespace {

constexpr int kWarps = 8;

struct Parts {
  PackedRows part[kMostMergedRanks];
  int count;
};

struct Target {
  void* k;
  void* v;
  int32_t* position;
  const int64_t* first_row;  // [heads]
  int64_t total;
};

// One warp per row; blocks along x: rows, y: heads, z: parts. `row`: vectors of a row of k or v.
template <class Vector>
__global__ void __launch_bounds__(32 * kWarps)
    merge(__grid_constant__ const Parts parts, __grid_constant__ const Target to, int row) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t head = blockIdx.y;
  const PackedRows& mine = parts.part[blockIdx.z];
  const int64_t length = mine.length[head], first = head * mine.capacity;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; i < length; i += step) {
    const int32_t position = mine.position[first + i];
    int64_t before = 0;
    for (int p = lane; p < parts.count; p += 32) {
      const PackedRows& other = parts.part[p];
      before += p == static_cast<int>(blockIdx.z)
                    ? i
                    : count_below(other.position + head * other.capacity, other.length[head], position);
    }
    for (int offset = 16; offset > 0; offset /= 2) before += __shfl_xor_sync(0xffffffffu, before, offset);
    if (before >= to.total) continue;
    const int64_t at = to.first_row[head] + before;
    if (lane == 0) to.position[at] = position;
    const Vector* k = static_cast<const Vector*>(mine.k) + (first + i) * row;
    const Vector* v = static_cast<const Vector*>(mine.v) + (first + i) * row;
    for (int part = lane; part < row; part += 32) {
      static_cast<Vector*>(to.k)[at * row + part] = k[part];
      static_cast<Vector*>(to.v)[at * row + part] = v[part];
    }
  }
}

}  // namespace

void merge_rows(Context& ctx, const std::vector<PackedRows>& parts, int64_t heads, int64_t total, int64_t row_bytes,
                const DeviceKvLayer& to) {
  const int count = static_cast<int>(parts.size());
  RESTKV_CHECK(count <= kMostMergedRanks, "rows of {} ranks, at most {} can be merged", count, kMostMergedRanks);
  if (heads == 0 || total == 0) return;
  RESTKV_CHECK(heads <= 65535, "{} heads", heads);
  Parts all{};
  all.count = count;
  int64_t most = 1;
  for (int p = 0; p < count; ++p) {
    all.part[p] = parts[static_cast<size_t>(p)];
    most = std::max(most, all.part[p].capacity);
  }
  // Messages and caches begin at whole vectors, and so does each of their rows when its size is one of vectors.
  const int64_t vector = row_bytes % 16 == 0 ? 16 : row_bytes % 8 == 0 ? 8 : row_bytes % 4 == 0 ? 4 : 2;
  const auto kernel = vector == 16  ? merge<uint4>
                      : vector == 8 ? merge<uint2>
                      : vector == 4 ? merge<uint32_t>
                                    : merge<uint16_t>;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>((most + kWarps - 1) / kWarps, 4096)),
                  static_cast<unsigned>(heads), static_cast<unsigned>(count));
  kernel<<<grid, 32 * kWarps, 0, stream_of(ctx)>>>(all, {to.k, to.v, to.position, to.first_row, total},
                                                   static_cast<int>(row_bytes / vector));
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
