// Eviction while decoding on GPU ranks that share the rows of their heads (decode mode sequence). All ranks of a group
// evict at the same steps, since the rows that a head has on all of them together follow from the schedule; what each
// of them keeps only the devices know.
#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/decode/decode_evictor.h"
#include "kvcache/decode/group_rows.h"
#include "kvcache/slots.h"

namespace restkv {
namespace {

// Messages of all ranks are at most so long, where those of one layer are.
constexpr int64_t kMessageBytes = int64_t{256} << 20;

}  // namespace

// One decision per head and one move, in runs of layers. most: no head has more rows, left: is left more.
void DecodeEvictor::cut_in_group(const DeviceEvictBatch& batch, std::span<const DecodedMember> members,
                                 const DueSlots& due, const RowCut& cut, int64_t most, int64_t left) const {
  if (batch.heads == 0) return;
  Communicator& group = *layout_.rows;
  const bool ladder = cut.choice == RowChoice::ladder, by_place = ladder || cut.choice == RowChoice::position;
  const bool slots = members[static_cast<size_t>(due.slot[0])].cache->has_slots();
  const bool silent = cut.choice == RowChoice::position || (ladder && slots);
  const bool of_layer = ladder || cut.choice == RowChoice::layer_keys;
  const int64_t told = of_layer ? 1 : batch.heads;
  const auto shape_of = [&](int64_t layers) { return GroupMessage{due.count * layers * told, most, !ladder}; };
  const int64_t layer_bytes = group.size() * shape_of(1).words() * static_cast<int64_t>(sizeof(int32_t));
  const int64_t at_once =
      silent ? batch.layers : std::clamp<int64_t>(kMessageBytes / std::max<int64_t>(1, layer_bytes), 1, batch.layers);
  for (int64_t first = 0; first < batch.layers; first += at_once) {
    const RowRun run{first, std::min(at_once, batch.layers - first), 0, batch.heads};
    Tensor own, all;
    GroupMessages messages;
    if (!silent) {
      messages = {nullptr, group.size(), group.rank(), 0, shape_of(run.layers), of_layer};
      messages.stride = messages.of.words();
      own = ctx_.empty(DType::i32, {messages.stride});
      all = ctx_.empty(DType::i32, {messages.stride * group.size()});
      gpu::pack_rows(ctx_, batch, due, cut, {run.first_layer, run.layers, 0, told}, messages.of, own.data<int32_t>());
      group.all_gather(own.raw(), all.raw(), messages.stride, DType::i32);
      messages.data = all.data<int32_t>();
    }
    const int64_t entries = due.count * run.layers * batch.heads;
    Tensor rows = ctx_.empty(DType::i32, {entries * left}), counts = ctx_.empty(DType::i32, {entries}), places;
    if (slots && by_place) places = ctx_.empty(DType::i32, {entries * left});
    const RowListsView lists{rows.data<int32_t>(), counts.data<int32_t>(), left,
                             places.empty() ? nullptr : places.data<int32_t>()};
    gpu::cut_group_rows(ctx_, batch, due, cut, run, messages, lists);
    gpu::keep_rows(ctx_, batch, due, run, lists);
  }
  if (!slots || by_place) return;
  for (int32_t i = 0; i < due.count; ++i)
    for (int64_t layer = 0; layer < batch.layers; ++layer) {
      const DecodedMember& member = members[static_cast<size_t>(due.slot[i])];
      if (is_due(member.state->layers[static_cast<size_t>(layer)]))
        number_slots(ctx_, group, *member.cache, layer, most);
    }
}

DecodeEvictor::GroupKv DecodeEvictor::gather_kv(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
                                                int64_t n, const Tensor& k, const Tensor& v) const {
  Communicator& group = *layout_.rows;
  GroupKv kv;
  kv.messages = {nullptr, group.size(), group.rank(), 0, {run.heads, n, false}, false};
  // Rows begin at multiples of 16 bytes.
  const int64_t at = (kv.messages.of.words() + 3) / 4 * 4;
  kv.messages.stride = at + run.heads * n * batch.d;  // K and V of half a word
  Tensor own = ctx_.empty(DType::i32, {kv.messages.stride});
  kv.all = ctx_.empty(DType::i32, {kv.messages.stride * group.size()});
  gpu::pack_kv(ctx_, batch, due, run, kv.messages.of, at, own.data<int32_t>());
  group.all_gather(own.raw(), kv.all.raw(), kv.messages.stride, DType::i32);
  kv.messages.data = kv.all.data<int32_t>();
  gpu::order_kv(ctx_, kv.messages, run.heads, at, n, batch.d, k.raw(), v.raw());
  return kv;
}

void DecodeEvictor::keep_in_group(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
                                  const GroupKv& kv, const KeptRows& kept) const {
  Tensor rows = ctx_.empty(DType::i32, {run.heads * kept.capacity()}), counts = ctx_.empty(DType::i32, {run.heads});
  const RowListsView lists{rows.data<int32_t>(), counts.data<int32_t>(), kept.capacity()};
  gpu::list_kept(ctx_, batch, due, run, kv.messages, kept.rows.data<int32_t>(), kept.counts.data<int32_t>(),
                 kept.capacity(), lists);
  gpu::keep_rows(ctx_, batch, due, run, lists);
}

// Of one member the last `left` rows of some heads of a layer.
void DecodeEvictor::keep_last_in_group(const DeviceEvictBatch& batch, const DueSlots& due, const RowRun& run,
                                       int64_t left) const {
  Tensor rows = ctx_.empty(DType::i32, {run.heads * left}), counts = ctx_.empty(DType::i32, {run.heads});
  const RowListsView lists{rows.data<int32_t>(), counts.data<int32_t>(), left};
  gpu::cut_group_rows(ctx_, batch, due, RowCut{}, run, {}, lists);
  gpu::keep_rows(ctx_, batch, due, run, lists);
}

}  // namespace restkv
