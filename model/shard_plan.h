// Which part of every weight a rank holds, and which part of those it works with while decoding.
#pragma once

#include "dist/comm/partition.h"
#include "dist/comm/process_grid.h"
#include "kvcache/heads.h"
#include "model/config.h"

namespace restkv {

/// How the ranks of a sequence group share the work of one new token.
///  - tensor: kept K/V are re-sharded by head over the whole world; every rank uses a slice of its resident weights.
///  - sequence: every rank attends the tokens it kept; partial outputs are merged by log-sum-exp.
enum class DecodeMode { tensor, sequence };

struct Shard {
  HeadLayout heads;  ///< query and KV heads
  Range mlp;         ///< columns of the MLP
  Range vocab;       ///< rows of the embedding and of the output head
};

struct ShardPlan {
  Shard resident;  ///< held in memory, used in prefill: cut over the tensor group
  Shard decode;    ///< used per decoded token: cut over the world (tensor mode), or the same as resident
  DecodeMode mode = DecodeMode::tensor;
};

/// Tensor sizes that the model's heads allow: divisors of Hq that divide Hkv or are a multiple of it.
std::vector<int> allowed_tensor_sizes(const ModelConfig& config);

/// Throws InputError when the tensor size does not divide the heads; the message lists what is allowed.
ShardPlan make_shard_plan(const ModelConfig& config, int sequence_size, int tensor_size, int sequence_rank,
                          int tensor_rank, DecodeMode mode);

/// The part of `resident` that one rank of its sequence group works with in DecodeMode::tensor.
Shard decode_share(const Shard& resident, int sequence_size, int sequence_rank);

}  // namespace restkv
