// Sequences that are decoded together, one token each per step. Every sequence has its own length, and gets the tokens
// that it would get alone.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/sampler.h"
#include "model/sequence.h"

namespace restkv {

class Transformer;

class DecodeBatch {
 public:
  struct Member {
    Sequence* sequence = nullptr;  ///< prefilled; outlives its membership
    SamplingConfig sampling;
    uint64_t request = 0;  ///< keys the draws (sampler.h)
    /// Tokens that the caller will feed before the first one that counts as drawn: draws do not depend on how much of
    /// a prompt was read at once.
    int64_t fed = 0;
  };

  virtual ~DecodeBatch() = default;

  int64_t size() const { return static_cast<int64_t>(members_.size()); }
  const Member& member(int64_t i) const { return members_.at(static_cast<size_t>(i)); }

  /// The next token of every member, sampled from what it has seen; waits for the device. Valid until the next step().
  virtual std::span<const int32_t> tokens() = 0;

  /// Feeds one token to every member, as a rule tokens(). Collective over the world; the same tokens on every rank.
  /// Throws InputError for a token outside the vocabulary or a position beyond the model's.
  virtual void step(std::span<const int32_t> tokens) = 0;

  /// A step whose parts are timed on this rank, of all members together. On GPUs the parts run apart, without the
  /// overlap that step() has: their sum is more than a step.
  virtual std::vector<PhaseTime> timed_step(std::span<const int32_t> tokens) = 0;

  /// Takes member i out; the later ones move up.
  virtual void leave(int64_t i) = 0;

 protected:
  explicit DecodeBatch(std::vector<Member> members) : members_(std::move(members)) {}
  /// Of the draws: so far below 0 (modulo 2^64) as tokens will be fed.
  std::vector<uint64_t> first_steps() const {
    std::vector<uint64_t> steps;
    for (const Member& member : members_) steps.push_back(uint64_t{0} - static_cast<uint64_t>(member.fed));
    return steps;
  }
  std::vector<Member> members_;
};

/// `model` outlives the batch. On GPUs at most kMaxDecodeBatch members.
std::unique_ptr<DecodeBatch> make_decode_batch(Transformer& model, std::vector<DecodeBatch::Member> members);

}  // namespace restkv
