// The batch on a GPU: one captured graph per step. Internal to model/.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "model/decode_batch.h"
#include "model/decode_groups.h"
#include "model/ops/attention_decode.h"
#include "model/ops/decode_linear.h"
#include "model/ops/sample.h"
#include "model/transformer.h"

namespace restkv {

/// Everything that changes between steps (tokens, positions, lengths, pointers of the caches, sampling parameters) is
/// read on the device, so a graph is captured once per number of members and launched anew for every token. On several
/// ranks the exchanges are part of the graph; the first step of a number of members runs without one, since NCCL may
/// still have to make connections for messages of that size.
class DeviceDecodeBatch final : public DecodeBatch {
 public:
  DeviceDecodeBatch(Transformer& model, std::vector<Member> members);

  std::span<const int32_t> tokens() override;
  void step(std::span<const int32_t> tokens) override;
  void leave(int64_t i) override;

  std::vector<PhaseTime> timed_step(std::span<const int32_t> tokens) override;

  /// For tests and single steps: the same kernels without a graph, and the logits of member 0 on the host.
  void step_eagerly(std::span<const int32_t> tokens);
  std::vector<float> logits(int64_t i);

 private:
  struct Buffers;

  void prepare_members();
  void upload_frequencies();
  void allocate_views();
  void prepare_views();
  void enqueue_slots(int64_t layer, const DecodeQkv& projection, BatchDecodeAttention& attention);
  void before_step(std::span<const int32_t> tokens);
  void after_step();
  void enqueue_forward();
  void enqueue_embedding();
  DecodeQkv enqueue_projection(int64_t layer);
  void enqueue_attention(int64_t layer);
  void enqueue_mlp(int64_t layer);
  void enqueue_residual(const MatrixView& in, const MatrixView& w, const Tensor& output_norm, const Tensor& norm,
                        const char* phase);
  void enqueue_advance();
  // Eviction while decoding (decode_batch_evict.cc).
  DeviceEvictBatch eviction_batch() const;
  void upload_evictions();
  void enqueue_watch();
  void evict_due();
  void enqueue_sampling();
  bool owns_next(const Sequence& sequence) const;
  void start_phase(const char* name) {
    if (clock_ != nullptr) clock_->start(name);
  }
  void fetch_tokens();
  struct Step {
    std::shared_ptr<void> graph;
    std::vector<CommStats> sent;  // by a launch, of each group of the grid
  };
  Step capture();
  void launch(const Step& step);
  std::vector<CommStats> stats() const;

  Transformer& model_;
  Context& ctx_;
  DecodeGroups& groups_;
  const DecodeEvictor* evictor_;  // null: nothing is evicted while decoding
  std::shared_ptr<Buffers> b_;
  std::map<int64_t, Step> captured_;  // by number of members; without a graph: ran once
  std::vector<uint64_t> steps_;       // tokens sampled per member
  std::vector<int32_t> tokens_;       // what the device sampled last
  bool fetched_ = false;
  bool capturing_ = false;
  PhaseClock* clock_ = nullptr;  // of a timed step
};

}  // namespace restkv
