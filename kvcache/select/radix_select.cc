#include "kvcache/select/radix_select.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "dist/base/error.h"
#include "kvcache/select/group_select.h"
#include "kvcache/select/radix_pass.h"

namespace restkv {
namespace {

constexpr Digit kKeyDigits[4] = {{22, 10}, {14, 8}, {7, 7}, {0, 7}};
constexpr int kPositionBits = 11;

void combine(Communicator& group, Tensor& histogram) {
  if (group.size() > 1) group.all_reduce(histogram.span<int32_t>());
}

// The cut of each tied row: the position after its last tie that is taken.
void resolve_ties(Context& ctx, Communicator& group, const SelectRows& input, const std::vector<int64_t>& tied,
                  const RadixRow* keys, SelectCut* cuts) {
  const int64_t rows = static_cast<int64_t>(tied.size());
  std::vector<uint32_t> key;
  std::vector<RadixRow> state;
  for (int64_t row : tied) {
    key.push_back(keys[row].prefix);
    state.push_back({0, keys[row].wanted, keys[row].sharing});
  }
  const int digits = (std::bit_width(static_cast<uint64_t>(input.total - 1)) + kPositionBits - 1) / kPositionBits;
  Tensor histogram = ctx.empty(DType::i32, {rows, int64_t{1} << kPositionBits});
  for (int i = digits - 1; i >= 0; --i) {
    const Digit digit{i * kPositionBits, kPositionBits};
    cpu::count_tie_positions(ctx, input, tied, key, state.data(), digit, histogram.data<int32_t>());
    combine(group, histogram);
    cpu::choose_bins(ctx, histogram.data<int32_t>(), rows, digit, /*from_top=*/false, state.data());
  }
  for (int64_t j = 0; j < rows; ++j) cuts[tied[j]].tie_end = state[j].prefix + 1;
}

SelectResult select_top_gpu(Context& ctx, Communicator& group, const SelectRows& input, const uint32_t* k_of_row,
                            int64_t k, int64_t* sums, const ReadValues& read = nullptr) {
  RESTKV_CHECK(k >= 0 && k <= input.total, "rows want {} of {}", k, input.total);
  if (group.size() > 1) {
    GroupSelect begun = begin_group_select(ctx, group, input, k, /*beside=*/false, read);
    SelectResult result = finish_group_select(ctx, group, std::move(begun), nullptr, k_of_row);
    if (sums != nullptr) top_set_sums(ctx, input, result.cut(), sums);
    return result;
  }
  SelectResult result{ctx.empty(DType::u32, {input.rows, 2}), ctx.empty(DType::i32, {input.rows})};
  gpu::select_top(ctx, input, k_of_row, static_cast<uint32_t>(k), static_cast<SelectCut*>(result.cuts.raw()),
                  result.tied.data<int32_t>(), sums, read);
  return result;
}

void check_rows(const SelectRows& input) {
  RESTKV_CHECK(input.total < std::numeric_limits<int32_t>::max(), "{} values in a row", input.total);
}

}  // namespace

int64_t SelectResult::tied_rows(const Context& ctx) const {
  if (tied.empty()) return 0;
  const std::vector<int32_t> flags = ctx.to_host<int32_t>(tied);
  return std::accumulate(flags.begin(), flags.end(), int64_t{0});
}

SelectResult select_top(Context& ctx, Communicator& group, const SelectRows& input, int64_t k, int64_t* sums) {
  if (ctx.device() == Device::gpu) {
    check_rows(input);
    return select_top_gpu(ctx, group, input, nullptr, k, sums);
  }
  SelectResult result = select_top(ctx, group, input, std::vector<int64_t>(static_cast<size_t>(input.rows), k));
  if (sums != nullptr) top_set_sums(ctx, input, result.cut(), sums);
  return result;
}

SelectResult select_top(Context& ctx, Communicator& group, const SelectRows& input, const std::vector<int64_t>& k) {
  RESTKV_CHECK(static_cast<int64_t>(k.size()) == input.rows, "{} counts for {} rows", k.size(), input.rows);
  check_rows(input);
  std::vector<RadixRow> state(static_cast<size_t>(input.rows));
  for (int64_t row = 0; row < input.rows; ++row) {
    RESTKV_CHECK(k[row] >= 0 && k[row] <= input.total, "row {} wants {} of {}", row, k[row], input.total);
    state[row].wanted = static_cast<uint32_t>(k[row]);
  }
  if (ctx.device() == Device::gpu) {
    const std::vector<uint32_t> wanted(k.begin(), k.end());
    Tensor k_of_row = ctx.to_device(wanted.data(), DType::u32, {input.rows});
    const int64_t most = k.empty() ? 0 : *std::max_element(k.begin(), k.end());
    return select_top_gpu(ctx, group, input, k_of_row.data<uint32_t>(), most, nullptr);
  }
  SelectResult result{ctx.empty(DType::u32, {input.rows, 2}), ctx.zeros(DType::i32, {input.rows})};
  if (input.rows == 0) return result;
  Tensor histogram = ctx.empty(DType::i32, {input.rows, kKeyBins[0]});
  for (const Digit& digit : kKeyDigits) {
    Tensor bins = histogram.reshape({input.rows * kKeyBins[0]}).rows(0, input.rows * digit.bins());
    cpu::count_keys(ctx, input, state.data(), digit, bins.data<int32_t>());
    combine(group, bins);
    cpu::choose_bins(ctx, bins.data<int32_t>(), input.rows, digit, /*from_top=*/true, state.data());
  }
  // Counts are the same on every rank, and so is the decision whether more passes are needed.
  SelectCut* cuts = static_cast<SelectCut*>(result.cuts.raw());
  std::vector<int64_t> tied;
  for (int64_t row = 0; row < input.rows; ++row) {
    cuts[row] = {state[row].prefix, std::numeric_limits<uint32_t>::max()};
    if (state[row].wanted == 0) cuts[row].tie_end = 0;
    if (state[row].wanted > 0 && state[row].wanted < state[row].sharing) tied.push_back(row);
  }
  for (int64_t row : tied) result.tied.data<int32_t>()[row] = 1;
  if (!tied.empty()) resolve_ties(ctx, group, input, tied, state.data(), cuts);
  return result;
}

SelectResult select_top(Context& ctx, Communicator& group, const SelectRows& input, const Tensor& k, int64_t most) {
  RESTKV_CHECK(k.numel() == input.rows, "{} counts for {} rows", k.numel(), input.rows);
  const auto* counts = k.data<uint32_t>();
  if (ctx.device() == Device::cpu)
    return select_top(ctx, group, input, std::vector<int64_t>(counts, counts + input.rows));
  check_rows(input);
  return select_top_gpu(ctx, group, input, counts, most, nullptr);
}

SelectResult select_top_beside(Context& ctx, Communicator& group, const SelectRows& input, int64_t k, int64_t* sums,
                               const ReadValues& read) {
  RESTKV_CHECK(ctx.device() == Device::gpu, "select_top_beside is for GPUs");
  check_rows(input);
  for (const Segment& s : *input.segments)
    RESTKV_CHECK(s.local == s.global, "position {} has the local index {}", s.global, s.local);
  return select_top_gpu(ctx, group, input, nullptr, k, sums, read);
}

void top_set_sums(Context& ctx, const SelectRows& input, const SelectCut* cuts, int64_t* sums) {
  if (ctx.device() == Device::gpu)
    gpu::top_set_sums(ctx, input, cuts, sums);
  else
    cpu::top_set_sums(ctx, input, cuts, sums);
}

TopRows top_set_rows(Context& ctx, const SelectRows& input, const SelectCut* cuts, Range tail, int64_t capacity) {
  TopRows top{ctx.empty(DType::i32, {input.rows, capacity}), ctx.empty(DType::i32, {input.rows})};
  const auto run = ctx.device() == Device::gpu ? gpu::top_set_rows : cpu::top_set_rows;
  run(ctx, input, cuts, tail, capacity, top.rows.data<int32_t>(), top.counts.data<int32_t>());
  return top;
}

}  // namespace restkv
