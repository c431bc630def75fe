#include "model/decode_batch.h"

#include "dist/base/error.h"
#include "model/decode_batch_device.h"
#include "model/transformer.h"

namespace restkv {
namespace {

// On CPU ranks: member after member. Reading the weights once for all would need a kernel of its own.
class HostDecodeBatch final : public DecodeBatch {
 public:
  HostDecodeBatch(Transformer& model, std::vector<Member> members)
      : DecodeBatch(std::move(members)), model_(model), steps_(first_steps()) {}

  std::span<const int32_t> tokens() override {
    if (tokens_.empty())
      for (size_t i = 0; i < members_.size(); ++i)
        tokens_.push_back(sample(members_[i].sequence->logits, members_[i].sampling, members_[i].request, steps_[i]));
    return tokens_;
  }

  void step(std::span<const int32_t> tokens) override {
    RESTKV_CHECK(tokens.size() == members_.size(), "{} tokens for {} sequences", tokens.size(), members_.size());
    for (size_t i = 0; i < members_.size(); ++i) {
      model_.decode_step(*members_[i].sequence, tokens[i]);
      ++steps_[i];
    }
    tokens_.clear();
  }

  std::vector<PhaseTime> timed_step(std::span<const int32_t> tokens) override {
    step(tokens);
    std::vector<PhaseTime> sum;
    for (const Member& m : members_) add_phases(sum, m.sequence->decode_phases);
    return sum;
  }

  void leave(int64_t i) override {
    members_.erase(members_.begin() + i);
    steps_.erase(steps_.begin() + i);
    if (!tokens_.empty()) tokens_.erase(tokens_.begin() + i);
  }

 private:
  Transformer& model_;
  std::vector<uint64_t> steps_;
  std::vector<int32_t> tokens_;
};

}  // namespace

std::unique_ptr<DecodeBatch> make_decode_batch(Transformer& model, std::vector<DecodeBatch::Member> members) {
  RESTKV_CHECK(!members.empty(), "a batch of no sequences");
  if (model.context().device() == Device::gpu) return std::make_unique<DeviceDecodeBatch>(model, std::move(members));
  return std::make_unique<HostDecodeBatch>(model, std::move(members));
}

}  // namespace restkv
