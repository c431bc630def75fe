#include "model/shard_plan.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {
namespace {

Range split_within(Range outer, int parts, int part) {
  Range inner = split_even(outer.size(), parts, part);
  return {outer.begin + inner.begin, outer.begin + inner.end};
}

// In units of 8 columns, so that a share of a matrix in bf16 starts and ends at 16 bytes, as the GPU's products need.
Range split_mlp(Range outer, int parts, int part) {
  constexpr int64_t kUnit = 8;
  if (outer.size() % kUnit != 0) return split_within(outer, parts, part);
  Range units = split_even(outer.size() / kUnit, parts, part);
  return {outer.begin + units.begin * kUnit, outer.begin + units.end * kUnit};
}

}  // namespace

std::vector<int> allowed_tensor_sizes(const ModelConfig& config) {
  std::vector<int> sizes;
  for (int64_t n = 1; n <= config.Hq; ++n)
    if (config.Hq % n == 0 && (config.Hkv % n == 0 || n % config.Hkv == 0)) sizes.push_back(static_cast<int>(n));
  return sizes;
}

Shard decode_share(const Shard& resident, int sequence_size, int sequence_rank) {
  Shard share = resident;
  share.heads.local = split_heads_within(resident.heads.local, resident.heads.group(), sequence_size, sequence_rank);
  share.mlp = split_mlp(resident.mlp, sequence_size, sequence_rank);
  share.vocab = split_within(resident.vocab, sequence_size, sequence_rank);
  return share;
}

ShardPlan make_shard_plan(const ModelConfig& config, int sequence_size, int tensor_size, int sequence_rank,
                          int tensor_rank, DecodeMode mode) {
  std::vector<int> allowed = allowed_tensor_sizes(config);
  if (std::find(allowed.begin(), allowed.end(), tensor_size) == allowed.end())
    fail_input("parallel.tensor: {} does not fit {} query heads and {} KV heads; allowed: {}", tensor_size, config.Hq,
               config.Hkv, fmt::join(allowed, ", "));
  ShardPlan plan;
  plan.mode = mode;
  plan.resident.heads = {config.Hq, config.Hkv, config.d, split_heads(config.Hq, config.Hkv, tensor_size, tensor_rank)};
  plan.resident.mlp = split_mlp({0, config.intermediate}, tensor_size, tensor_rank);
  plan.resident.vocab = split_even(config.vocab, tensor_size, tensor_rank);
  plan.decode = mode == DecodeMode::tensor ? decode_share(plan.resident, sequence_size, sequence_rank) : plan.resident;
  return plan;
}

}  // namespace restkv
