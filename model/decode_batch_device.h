// The batch on a GPU: one captured graph per step. Internal to model/.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "model/decode_batch.h"
#include "model/ops/attention_decode.h"
#include "model/ops/decode_linear.h"
#include "model/ops/sample.h"
#include "model/transformer.h"

namespace restkv {

/// Everything that changes between steps (tokens, positions, lengths, pointers of the caches, sampling parameters) is
/// read on the device, so a graph is captured once per number of members and launched anew for every token.
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
  void before_step(std::span<const int32_t> tokens);
  void after_step();
  void enqueue_forward();
  void enqueue_layer(int64_t layer);
  void enqueue_sampling();
  void start_phase(const char* name) {
    if (clock_ != nullptr) clock_->start(name);
  }
  void fetch_tokens();
  std::shared_ptr<void> capture();

  Transformer& model_;
  Context& ctx_;
  std::shared_ptr<Buffers> b_;
  std::map<int64_t, std::shared_ptr<void>> graphs_;  // by number of members
  std::vector<uint64_t> steps_;                      // tokens sampled per member
  std::vector<int32_t> tokens_;                      // what the device sampled last
  bool fetched_ = false;
  bool capturing_ = false;
  PhaseClock* clock_ = nullptr;  // of a timed step
};

}  // namespace restkv
