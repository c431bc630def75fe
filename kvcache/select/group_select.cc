#include "kvcache/select/group_select.h"

#include <algorithm>

#include "dist/base/error.h"
#include "kvcache/select/radix_pass.h"

namespace restkv {

int64_t group_list_length(int64_t k, int64_t most_local) { return std::min(k + 1, most_local); }

GroupSelect begin_group_select(Context& ctx, Communicator& group, const SelectRows& input, int64_t k, bool beside,
                               const ReadValues& read) {
  RESTKV_CHECK(ctx.device() == Device::gpu, "lists are exchanged by GPU ranks; CPU ranks exchange histograms");
  RESTKV_CHECK(k >= 0 && k <= input.total, "rows want {} of {}", k, input.total);
  GroupSelect begun;
  begun.rows = input.rows;
  begun.k = k;
  if (input.rows == 0) return begun;
  int64_t here = 0;
  for (const Segment& s : *input.segments) here += s.count;
  const int64_t most = input.most_local > 0 ? input.most_local : input.total;
  RESTKV_CHECK(here <= most, "{} values on this rank, at most {} on any", here, most);
  begun.length = group_list_length(k, most);
  begun.local = ctx.empty(DType::u64, {input.rows, begun.length});
  gpu::list_top(ctx, input, std::min(k + 1, here), begun.local.data<uint64_t>(), begun.length, read);
  const int64_t count = begun.local.numel();
  if (count * group.size() * size_of(DType::u64) > kGatheredListBytes) return begun;
  begun.gathered = ctx.empty(DType::u64, {group.size(), input.rows, begun.length});
  const auto gather = [&] { group.all_gather(begun.local.raw(), begun.gathered.raw(), count, DType::u64); };
  if (beside)
    begun.ticket = group.beside(gather);
  else
    gather();
  return begun;
}

SelectResult finish_group_select(Context& ctx, Communicator& group, GroupSelect begun, int64_t* sums,
                                 const uint32_t* k_of_row) {
  SelectResult result{ctx.empty(DType::u32, {begun.rows, 2}), ctx.empty(DType::i32, {begun.rows})};
  if (begun.rows == 0) return result;
  const auto resolve = [&](const Tensor& gathered, int64_t first, int64_t rows) {
    gpu::resolve_union(ctx, gathered.data<uint64_t>(), group.size(), rows, begun.length,
                       k_of_row != nullptr ? k_of_row + first : nullptr, static_cast<uint32_t>(begun.k),
                       static_cast<SelectCut*>(result.cuts.raw()) + first, result.tied.data<int32_t>() + first,
                       sums != nullptr ? sums + first : nullptr);
  };
  if (!begun.gathered.empty()) {
    if (begun.ticket != nullptr) group.join(begun.ticket.get());
    resolve(begun.gathered, 0, begun.rows);
    return result;
  }
  const int64_t row_bytes = group.size() * begun.length * size_of(DType::u64);
  const int64_t at_once = std::clamp<int64_t>(kGatheredListBytes / row_bytes, 1, begun.rows);
  Tensor gathered = ctx.empty(DType::u64, {group.size() * at_once * begun.length});
  for (int64_t first = 0; first < begun.rows; first += at_once) {
    const int64_t rows = std::min(at_once, begun.rows - first);
    group.all_gather(begun.local.rows(first, rows).raw(), gathered.raw(), rows * begun.length, DType::u64);
    resolve(gathered, first, rows);
  }
  return result;
}

}  // namespace restkv
