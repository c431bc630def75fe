#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "kvcache/cache_rows.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 256;  // of one launch: their source columns are kernel parameters

struct SourceHeads {
  int32_t of[kHeads];
};

// Everything in units of Vector, but positions.
struct Store {
  const void* k;
  const void* v;
  int64_t k_stride, v_stride;  // from one token to the next
  int row;                     // of one head
  const int32_t* rows;         // [heads, capacity_of_rows], or null: row i is i
  int64_t capacity_of_rows;
  const int32_t* counts;  // [heads], or null: known
  int64_t known;
  const void* positions;
  bool wide;  // positions are i64
  void* to_k;
  void* to_v;
  int32_t* to_position;
  int64_t capacity;  // rows per head of the storage
  bool packed;       // first_rows says where heads begin
  int64_t* first_rows;
  int32_t* lengths;
  int first_head;
};

// Heads along y; along x, rows and the vectors of a row.
template <class Vector>
__global__ void __launch_bounds__(kThreads) store(Store s, SourceHeads source) {
  const int64_t head = s.first_head + blockIdx.y;
  const int64_t wanted = s.counts != nullptr ? s.counts[head] : s.known;
  const int64_t count = s.packed || wanted < s.capacity ? wanted : s.capacity;
  const int64_t first_row = s.packed ? s.first_rows[head] : head * s.capacity;
  const int64_t column = static_cast<int64_t>(source.of[blockIdx.y]) * s.row;
  if (blockIdx.x == 0 && threadIdx.x == 0 && !s.packed) {
    s.first_rows[head] = first_row;
    s.lengths[head] = static_cast<int32_t>(count);
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count * s.row; i += step) {
    const int64_t at = i / s.row, part = i - at * s.row;
    const int64_t row = s.rows != nullptr ? s.rows[head * s.capacity_of_rows + at] : at;
    const int64_t to = (first_row + at) * s.row + part;
    static_cast<Vector*>(s.to_k)[to] = static_cast<const Vector*>(s.k)[row * s.k_stride + column + part];
    static_cast<Vector*>(s.to_v)[to] = static_cast<const Vector*>(s.v)[row * s.v_stride + column + part];
    if (part == 0)
      s.to_position[first_row + at] = s.wide ? static_cast<int32_t>(static_cast<const int64_t*>(s.positions)[row])
                                             : static_cast<const int32_t*>(s.positions)[row];
  }
}

// lengths may be null.
__global__ void set_first_rows(int64_t heads, int64_t capacity, int64_t length, int64_t* first_rows, int32_t* lengths) {
  const int64_t head = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (head >= heads) return;
  first_rows[head] = head * capacity;
  if (lengths != nullptr) lengths[head] = static_cast<int32_t>(length);
}

// One block.
__global__ void __launch_bounds__(1024) pack_kernel(const int32_t* counts, int64_t parts, int64_t stride, int heads,
                                                    int64_t reserve, int64_t* first_rows, int32_t* lengths) {
  for (int h = static_cast<int>(threadIdx.x); h < heads; h += static_cast<int>(blockDim.x)) {
    int32_t length = 0;
    for (int64_t p = 0; p < parts; ++p) length += counts[p * stride + h];
    lengths[h] = length;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  int64_t row = 0;
  for (int h = 0; h < heads; ++h) {
    first_rows[h] = row;
    row += lengths[h] + reserve;
  }
}

struct Ragged {
  const void *k, *v;
  const int32_t* position;
  const int64_t* sums;
  const int32_t* slot;
  const int64_t* from_first;
  const int32_t* lengths;
  void *to_k, *to_v;
  int32_t* to_position;
  int64_t* to_sums;
  int32_t* to_slot;
  const int64_t* to_first;
  int row;  // in units of Vector
};

// Heads along y.
template <class Vector>
__global__ void __launch_bounds__(kThreads) move_ragged(Ragged r) {
  const int64_t head = blockIdx.y, count = r.lengths[head], from = r.from_first[head], to = r.to_first[head];
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count * r.row; i += step) {
    static_cast<Vector*>(r.to_k)[to * r.row + i] = static_cast<const Vector*>(r.k)[from * r.row + i];
    static_cast<Vector*>(r.to_v)[to * r.row + i] = static_cast<const Vector*>(r.v)[from * r.row + i];
    if (i >= count) continue;
    r.to_position[to + i] = r.position[from + i];
    if (r.sums != nullptr) r.to_sums[to + i] = r.sums[from + i];
    if (r.slot != nullptr) r.to_slot[to + i] = r.slot[from + i];
  }
}

int64_t capacity_of(const CacheRows& rows) { return rows.capacity->empty() ? 0 : rows.capacity->front(); }

// The widest vector that all rows are made of.
int64_t vector_bytes(const CacheSource& source, int64_t row_bytes) {
  const int64_t element = size_of(source.k.dtype);
  uint64_t all = static_cast<uint64_t>(row_bytes) | static_cast<uint64_t>(source.k.ld * element) |
                 static_cast<uint64_t>(source.v.ld * element) | reinterpret_cast<uintptr_t>(source.k.data) |
                 reinterpret_cast<uintptr_t>(source.v.data);
  for (int64_t bytes : {16, 8, 4})
    if (all % static_cast<uint64_t>(bytes) == 0) return bytes;
  return 2;
}

}  // namespace

void store_rows(Context& ctx, const CacheSource& source, const KeptRows& kept, const CacheRows& to, int64_t* first_rows,
                int32_t* lengths, int64_t packed_reserve) {
  const bool packed = packed_reserve >= 0;
  const int64_t heads = to.heads(), vector = vector_bytes(source, to.row_bytes), element = size_of(source.k.dtype);
  const int64_t most = kept.known >= 0 ? kept.known : kept.capacity();
  Store s{source.k.data,
          source.v.data,
          source.k.ld * element / vector,
          source.v.ld * element / vector,
          static_cast<int>(to.row_bytes / vector),
          kept.all ? nullptr : kept.rows.data<int32_t>(),
          kept.capacity(),
          kept.all ? nullptr : kept.counts.data<int32_t>(),
          kept.known,
          source.positions.raw(),
          source.positions.dtype() == DType::i64,
          to.k,
          to.v,
          to.position,
          packed ? 0 : capacity_of(to),
          packed,
          first_rows,
          lengths,
          0};
  if (packed) pack_heads(ctx, s.counts, 1, heads, heads, packed_reserve, first_rows, lengths);
  const int64_t blocks = std::clamp<int64_t>((most * s.row + kThreads - 1) / kThreads, 1, 8192);
  const auto kernel = vector == 16  ? store<uint4>
                      : vector == 8 ? store<uint2>
                      : vector == 4 ? store<uint32_t>
                                    : store<uint16_t>;
  for (int64_t first = 0; first < heads; first += kHeads) {
    const int64_t now = std::min<int64_t>(kHeads, heads - first);
    SourceHeads columns{};
    for (int64_t h = 0; h < now; ++h) columns.of[h] = static_cast<int32_t>(source.source_head[first + h]);
    s.first_head = static_cast<int>(first);
    kernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(now)), kThreads, 0, stream_of(ctx)>>>(s,
                                                                                                             columns);
    RESTKV_KERNEL_CHECK();
  }
}

void move_rows(Context& ctx, const CacheRows& from, int64_t length, const CacheRows& to, int64_t* first_rows) {
  const int64_t heads = to.heads();
  if (heads == 0) return;
  auto copy = [&](const void* source, void* target, int64_t row_bytes) {
    if (length == 0) return;
    RESTKV_CUDA_CHECK(cudaMemcpy2DAsync(target, static_cast<size_t>(capacity_of(to) * row_bytes), source,
                                        static_cast<size_t>(capacity_of(from) * row_bytes),
                                        static_cast<size_t>(length * row_bytes), static_cast<size_t>(heads),
                                        cudaMemcpyDeviceToDevice, stream_of(ctx)));
  };
  copy(from.k, to.k, to.row_bytes);
  copy(from.v, to.v, to.row_bytes);
  copy(from.position, to.position, sizeof(int32_t));
  if (from.sums != nullptr) copy(from.sums, to.sums, sizeof(int64_t));
  if (from.slot != nullptr) copy(from.slot, to.slot, sizeof(int32_t));
  set_first_rows<<<static_cast<unsigned>((heads + 255) / 256), 256, 0, stream_of(ctx)>>>(heads, capacity_of(to), 0,
                                                                                         first_rows, nullptr);
  RESTKV_KERNEL_CHECK();
}

void move_ragged_rows(Context& ctx, const CacheRows& from, const int64_t* from_first, const int32_t* lengths,
                      const CacheRows& to, const int64_t* to_first, int64_t heads) {
  if (heads == 0) return;
  const int64_t bytes = from.row_bytes;
  const int64_t vector = bytes % 16 == 0 ? 16 : bytes % 4 == 0 ? 4 : 2;  // storage begins at whole vectors
  const Ragged r{from.k, from.v, from.position, from.sums, from.slot, from_first, lengths,
                 to.k,   to.v,   to.position,   to.sums,   to.slot,   to_first,   static_cast<int>(bytes / vector)};
  const auto kernel = vector == 16 ? move_ragged<uint4> : vector == 4 ? move_ragged<uint32_t> : move_ragged<uint16_t>;
  kernel<<<dim3(64, static_cast<unsigned>(heads)), kThreads, 0, stream_of(ctx)>>>(r);
  RESTKV_KERNEL_CHECK();
}

void pack_heads(Context& ctx, const int32_t* counts, int64_t parts, int64_t stride, int64_t heads, int64_t reserve,
                int64_t* first_rows, int32_t* lengths) {
  if (heads == 0) return;
  pack_kernel<<<1, 128, 0, stream_of(ctx)>>>(counts, parts, stride, static_cast<int>(heads), reserve, first_rows,
                                             lengths);
  RESTKV_KERNEL_CHECK();
}

void begin_rows(Context& ctx, int64_t heads, int64_t capacity, int64_t length, int64_t* first_rows, int32_t* lengths) {
  if (heads == 0) return;
  set_first_rows<<<static_cast<unsigned>((heads + 255) / 256), 256, 0, stream_of(ctx)>>>(heads, capacity, length,
                                                                                         first_rows, lengths);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
