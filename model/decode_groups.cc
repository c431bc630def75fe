#include "model/decode_groups.h"

#include <algorithm>
#include <numeric>

#include "dist/base/error.h"
#include "dist/comm/collective.h"
#include "model/ops/decode_exchange.h"

namespace restkv {
namespace {

// What a rank may push over the links in one exchange: beyond it, a collective that sends every byte once or twice
// instead of to every peer is faster.
constexpr int64_t kPushedBytes = int64_t{8} << 20;

int64_t most_words(int ranks) { return kPushedBytes / (8 * (ranks - 1)) / 2 * 2; }

// Ranks of the world in this rank's tensor group, or in its sequence group.
std::vector<int> tensor_members(const ProcessGrid& grid) {
  std::vector<int> members;
  members.reserve(static_cast<size_t>(grid.tensor_size()));
  for (int t = 0; t < grid.tensor_size(); ++t) members.push_back(grid.sequence_rank() * grid.tensor_size() + t);
  return members;
}
std::vector<int> sequence_members(const ProcessGrid& grid) {
  std::vector<int> members;
  members.reserve(static_cast<size_t>(grid.sequence_size()));
  for (int s = 0; s < grid.sequence_size(); ++s) members.push_back(s * grid.tensor_size() + grid.tensor_rank());
  return members;
}

}  // namespace

DecodeGroups::DecodeGroups(Context& ctx, const ProcessGrid& grid, const ModelConfig& config, const ShardPlan& plan,
                           const DecodeGroupOptions& options)
    : ctx_(ctx),
      grid_(grid),
      sum_(plan.mode == DecodeMode::tensor ? grid.world() : grid.tensor()),
      d_(config.d),
      timeout_s_(options.timeout_s),
      embedding_rows_(plan.resident.vocab),
      Hq_lc_(plan.decode.heads.Hq_lc()),
      vocab_(config.vocab) {
  const int tensor = grid.tensor_size();
  const bool world = plan.mode == DecodeMode::tensor;
  for (int r = 0; r < sum_.size(); ++r) {
    const int sequence_rank = world ? r / tensor : grid.sequence_rank();
    columns_.push_back(
        make_shard_plan(config, grid.sequence_size(), tensor, sequence_rank, r % tensor, plan.mode).decode.vocab);
  }
  if (world && tensor > 1) embedding_rows_ = plan.decode.vocab;
  if (!world && grid.sequence_size() > 1) merge_ = &grid.sequence();

  if (!options.peer_memory) {
    reason_ = "switched off";
    return;
  }
  if (sums()) {
    std::vector<int> members(static_cast<size_t>(grid.size()));
    std::iota(members.begin(), members.end(), 0);
    sum_memory_ = map_peers(
        world ? members : tensor_members(grid),
        std::max(stream_sum_words(kMaxDecodeBatch, config.hidden), column_exchange_words(columns_, kMaxDecodeBatch)));
  }
  if (merge_ != nullptr)
    merge_memory_ = map_peers(sequence_members(grid), partial_exchange_words(kMaxDecodeBatch * Hq_lc_, d_));
}

DecodeGroups::~DecodeGroups() = default;

DecodeGroupBuffers DecodeGroups::make_buffers(int64_t batch) const {
  DecodeGroupBuffers buffers;
  const int64_t rows = batch * Hq_lc_;
  if (merge_ != nullptr && !merges_by_peers(rows))
    buffers.partials = ctx_.empty(DType::f32, {merge_->size() * rows * (d_ + 1)});
  if (sums() && batch > 1) {
    buffers.own_logits = ctx_.empty(DType::f32, {batch, own_columns().size()});
    if (!joins_by_peers(batch)) buffers.gathered_logits = ctx_.empty(DType::f32, {batch * vocab_});
  }
  return buffers;
}

bool DecodeGroups::merges_by_peers(int64_t rows) const {
  return merge_memory_ != nullptr && partial_exchange_words(rows, d_) <= merge_memory_->view().words;
}

bool DecodeGroups::joins_by_peers(int64_t n) const {
  return sum_memory_ != nullptr && column_exchange_words(columns_, n) <= sum_memory_->view().words;
}

std::unique_ptr<PeerMemory> DecodeGroups::map_peers(const std::vector<int>& group, int64_t words) {
  PeerMemory::Options options;
  options.words = std::min((words + 1) / 2 * 2, most_words(static_cast<int>(group.size())));
  options.timeout_s = timeout_s_;
  return PeerMemory::create(ctx_, grid_.control(), group, options, &reason_);
}

void DecodeGroups::sum_through(const Tensor& terms, const Tensor& norm, const DecodeStream& stream, bool replace) {
  const bool fits =
      sum_memory_ != nullptr && stream_sum_words(stream.batch(), stream.hidden()) <= sum_memory_->view().words;
  if (fits) {
    sum_into_stream(ctx_, sum_memory_->view(), terms, norm, stream, replace);
    sum_.add_stats({1, collective::sent_by_all_reduce(sum_.size(), terms.bytes())});
    return;
  }
  sum_.all_reduce(terms.raw(), terms.numel(), DType::f32, ReduceOp::sum);
  if (replace)
    prepare_stream(ctx_, norm, stream);
  else
    add_to_stream(ctx_, terms, norm, stream);
}

void DecodeGroups::sum_embedding(const Tensor& norm, const DecodeStream& stream) {
  sum_through(stream.x, norm, stream, true);
}

void DecodeGroups::add_terms(const Tensor& terms, const Tensor& norm, const DecodeStream& stream) {
  sum_through(terms, norm, stream, false);
}

void DecodeGroups::sum_terms(const Tensor& terms) {
  if (sums()) sum_.all_reduce(terms.raw(), terms.numel(), DType::f32, ReduceOp::sum);
}

void DecodeGroups::merge(const DecodeGroupBuffers& buffers, const Tensor& partial, int64_t rows, void* merged,
                         float* lse) {
  const auto* out = partial.data<float>();
  const int64_t count = rows * (d_ + 1);
  if (merges_by_peers(rows)) {
    exchange_and_merge(ctx_, merge_memory_->view(), {out, out + rows * d_, rows, d_, merged, lse});
    merge_->add_stats({1, collective::sent_by_all_gather(merge_->size(), count * size_of(DType::f32))});
    return;
  }
  RESTKV_CHECK(count * merge_->size() <= buffers.partials.numel(), "{} partial results", rows);
  auto* all = buffers.partials.data<float>();
  merge_->all_gather(out, all, count, DType::f32);
  PartialMerge args;
  args.out = all;
  args.lse = all + rows * d_;
  args.parts = merge_->size();
  args.out_stride = args.lse_stride = count;
  args.rows = rows;
  args.d = d_;
  args.merged_bf16 = merged;
  args.merged_lse = lse;
  merge_partial_attention(ctx_, args);
}

MatrixView DecodeGroups::own_logits(const DecodeGroupBuffers& buffers, const Tensor& logits) const {
  const int64_t n = logits.size(0);
  const Range mine = own_columns();
  // One row of slices is a row; for one rank the slice is the whole.
  if (n == 1 || !sums()) return MatrixView(logits).block(0, n, mine.begin, mine.size());
  RESTKV_CHECK(n <= buffers.own_logits.size(0), "logits of {} members, room for {}", n, buffers.own_logits.size(0));
  return {buffers.own_logits.raw(), DType::f32, n, mine.size(), mine.size()};
}

void DecodeGroups::gather_logits(const DecodeGroupBuffers& buffers, const Tensor& logits) {
  if (!sums()) return;
  const int64_t n = logits.size(0);
  auto* out = logits.data<float>();
  if (joins_by_peers(n)) {
    exchange_columns(ctx_, sum_memory_->view(), {own_logits(buffers, logits), columns_, out, logits.size(1)});
    sum_.add_stats({1, collective::sent_by_all_gather(sum_.size(), n * own_columns().size() * size_of(DType::f32))});
    return;
  }
  std::vector<int64_t> counts, offsets;
  int64_t next = 0;
  for (const Range& part : columns_) {
    counts.push_back(n * part.size());
    offsets.push_back(n == 1 ? part.begin : next);
    next += counts.back();
  }
  float* to = n == 1 ? out : buffers.gathered_logits.data<float>();
  const void* own = own_logits(buffers, logits).data;
  bool regular = true;  // equal slices in rank order
  for (size_t r = 0; r < counts.size(); ++r)
    regular = regular && counts[r] == counts[0] && offsets[r] == static_cast<int64_t>(r) * counts[0];
  if (regular)
    sum_.all_gather(own, to, counts[0], DType::f32);
  else
    sum_.all_gather_v(own, to, counts, offsets, DType::f32);
  if (n > 1) join_columns(ctx_, to, columns_, n, out, logits.size(1));
}

void DecodeGroups::check() const {
  for (const PeerMemory* memory : {sum_memory_.get(), merge_memory_.get()})
    if (memory != nullptr) memory->check("decode");
}

std::string DecodeGroups::describe() const {
  if (!sums() && !merges()) return "one rank";
  const bool mapped = (!sums() || sum_memory_ != nullptr) && (!merges() || merge_memory_ != nullptr);
  return mapped ? "exchanges over peer memory" : fmt::format("exchanges by collectives (peer memory: {})", reason_);
}

}  // namespace restkv
