#include "kvcache/slots.h"

#include <algorithm>
#include <numeric>

#include "dist/base/error.h"

namespace restkv {
namespace {

void number_on_cpu(Communicator& rows, KvCache& cache, int64_t layer) {
  const int64_t heads = cache.heads();
  const auto ranks = static_cast<size_t>(rows.size());
  std::vector<int64_t> own, count, counts(static_cast<size_t>(heads) * ranks);
  for (int64_t h = 0; h < heads; ++h) {
    const std::vector<int64_t> positions = cache.positions(layer, h);
    count.push_back(static_cast<int64_t>(positions.size()));
    own.insert(own.end(), positions.begin(), positions.end());
  }
  rows.all_gather(count.data(), counts.data(), heads, DType::i64);
  std::vector<int64_t> sizes, offsets;
  int64_t total = 0;
  for (size_t rank = 0; rank < ranks; ++rank) {
    const auto first = counts.begin() + static_cast<int64_t>(rank) * heads;
    offsets.push_back(total);
    sizes.push_back(std::accumulate(first, first + heads, int64_t{0}));
    total += sizes.back();
  }
  std::vector<int64_t> all(static_cast<size_t>(total));
  rows.all_gather_v(own.data(), all.data(), sizes, offsets, DType::i64);

  const KvView view = cache.view(layer);
  std::vector<int64_t> first(offsets);  // of the head at hand, by rank
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t storage = view.head_offset[h] / view.row_stride;
    int32_t* slot = cache.slots_of(layer) + storage;
    const int32_t* position = view.positions + storage;
    std::fill_n(slot, view.lengths[h], 0);
    int64_t rows_of_head = 0;
    for (size_t rank = 0; rank < ranks; ++rank) {
      const int64_t n = counts[rank * static_cast<size_t>(heads) + static_cast<size_t>(h)];
      const auto begin = all.begin() + first[rank];
      for (int64_t i = 0; i < view.lengths[h]; ++i)
        slot[i] += static_cast<int32_t>(std::lower_bound(begin, begin + n, position[i]) - begin);
      first[rank] += n;
      rows_of_head += n;
    }
    cache.totals_of(layer)[h] = static_cast<int32_t>(rows_of_head);
  }
}

void number_on_gpu(Context& ctx, Communicator& rows, KvCache& cache, int64_t layer, int64_t most) {
  const int64_t heads = cache.heads(), words = heads * (most + 1);
  Tensor own = ctx.empty(DType::i32, {words}), all = ctx.empty(DType::i32, {words * rows.size()});
  const DeviceKvLayer record = cache.device_layer(layer);
  gpu::pack_positions(ctx, record, heads, most, own.data<int32_t>());
  rows.all_gather(own.raw(), all.raw(), words, DType::i32);
  gpu::count_slots(ctx, all.data<int32_t>(), rows.size(), heads, most, record);
}

}  // namespace

void number_slots(Context& ctx, Communicator& rows, KvCache& cache, int64_t layer, int64_t most) {
  RESTKV_CHECK(cache.has_slots(), "number_slots: the cache was made without slots");
  if (cache.heads() == 0) return;
  if (ctx.device() == Device::gpu)
    number_on_gpu(ctx, rows, cache, layer, most);
  else
    number_on_cpu(rows, cache, layer);
}

}  // namespace restkv
