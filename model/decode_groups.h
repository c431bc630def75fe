// The groups in which GPU ranks exchange while they decode, and how: over memory that they map into each other where
// the GPUs reach one another and messages are small, otherwise by the groups' collectives. Internal to model/.
//
// Everything is enqueued in the context's stream and may be captured into a graph; the host never waits. All ranks of
// the grid enqueue the same steps in the same order. Results have the same bits on all ranks of a group.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dist/comm/peer_memory.h"
#include "dist/comm/process_grid.h"
#include "model/ops/attention_decode.h"
#include "model/ops/decode_linear.h"
#include "model/shard_plan.h"

namespace restkv {

struct DecodeGroupOptions {
  bool peer_memory = true;  ///< false: collectives alone
  double timeout_s = 30.0;  ///< longest wait for a rank over peer memory; 0: for ever
};

/// Device memory in which exchanges of a batch land that go by collectives, or that cannot land in place.
struct DecodeGroupBuffers {
  Tensor partials;         ///< f32 [ranks, rows (d + 1)]
  Tensor own_logits;       ///< f32 [batch, own columns]
  Tensor gathered_logits;  ///< f32 [batch * vocab]
};

class DecodeGroups {
 public:
  /// Collective over the grid. References outlive the object.
  DecodeGroups(Context& ctx, const ProcessGrid& grid, const ModelConfig& config, const ShardPlan& plan,
               const DecodeGroupOptions& options);
  /// Collective as well (PeerMemory).
  ~DecodeGroups();

  /// For batches of up to `batch` members; empty where nothing needs them. A captured graph keeps their addresses.
  DecodeGroupBuffers make_buffers(int64_t batch) const;

  /// The ranks whose terms add up behind attention and MLP: the world in DecodeMode::tensor, else the tensor group.
  Communicator& sum_group() const { return sum_; }
  bool sums() const { return sum_.size() > 1; }
  /// Whether other ranks attend other tokens of the same heads (DecodeMode::sequence).
  bool merges() const { return merge_ != nullptr; }

  /// Rows of the vocabulary that this rank looks up: all ranks of the sum group together have each row once, unless
  /// every rank has them all.
  Range embedding_rows() const { return embedding_rows_; }
  /// stream.x = the sum over the group of what decode_embed put there; then prepared for `norm` [H].
  void sum_embedding(const Tensor& norm, const DecodeStream& stream);
  /// stream.x += the sum over the group of `terms` [batch, H] f32 (which it may change); then as add_to_stream.
  void add_terms(const Tensor& terms, const Tensor& norm, const DecodeStream& stream);

  /// terms [batch, H] f32 = their sum over the group, where something else comes before the stream.
  void sum_terms(const Tensor& terms);

  /// partial: [rows, d] outputs, then [rows] log-sum-exps, f32, of this rank -> merged bf16 [rows, d] over the sequence
  /// group. rows: batch times heads. lse f32 [rows], when not null: the log-sum-exps over the group.
  void merge(const DecodeGroupBuffers& buffers, const Tensor& partial, int64_t rows, void* merged,
             float* lse = nullptr);

  /// Where a batch of n members has its own columns of the logits computed, [n, own_columns().size()] f32 with leading
  /// dimension ld: in `logits` [n, vocab] itself, or in `buffers`.
  MatrixView own_logits(const DecodeGroupBuffers& buffers, const Tensor& logits) const;
  Range own_columns() const { return columns_[static_cast<size_t>(sum_.rank())]; }
  /// Completes logits [n, vocab] on every rank.
  void gather_logits(const DecodeGroupBuffers& buffers, const Tensor& logits);

  /// After waiting for the device: throws RuntimeFailure when an exchange over peer memory gave up.
  void check() const;
  /// "sums over peer memory", or over collectives, with the reason.
  std::string describe() const;

 private:
  std::unique_ptr<PeerMemory> map_peers(const std::vector<int>& group, int64_t words);
  bool merges_by_peers(int64_t rows) const;
  bool joins_by_peers(int64_t n) const;
  void sum_through(const Tensor& terms, const Tensor& norm, const DecodeStream& stream, bool replace);

  Context& ctx_;
  const ProcessGrid& grid_;
  Communicator& sum_;
  Communicator* merge_ = nullptr;
  int64_t d_;
  double timeout_s_;
  Range embedding_rows_;
  std::vector<Range> columns_;  // of the logits, by rank of the sum group
  std::unique_ptr<PeerMemory> sum_memory_, merge_memory_;
  int64_t Hq_lc_, vocab_;
  std::string reason_;  // for no peer memory
};

}  // namespace restkv
