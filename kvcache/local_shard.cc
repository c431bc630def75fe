#include "kvcache/local_shard.h"

#include "dist/base/error.h"
#include "kvcache/cpu/panel.h"

namespace restkv {

int64_t LocalShard::past_count() const {
  int64_t count = 0;
  for (const Segment& s : past) count += s.count;
  return count;
}

LocalShard make_local_shard(const SequencePartition& partition, int rank, int64_t W) {
  LocalShard shard;
  shard.L = partition.length();
  shard.W = W;
  shard.P = shard.L - W;
  RESTKV_CHECK(W >= 0 && (W < shard.L || W == 0), "window {} of {} positions", W, shard.L);
  RESTKV_CHECK(partition.block_size() % kPanel == 0, "block size {} is not a multiple of {}", partition.block_size(),
               kPanel);
  shard.L_lc = partition.local_size(rank);
  shard.stride = round_up_to_panel(shard.L_lc);
  int64_t local = 0;
  for (Range chunk : partition.chunks_of(rank)) {
    if (chunk.empty()) continue;
    shard.all.push_back({local, chunk.begin, chunk.size()});
    Range past = intersect(chunk, {0, shard.P});
    if (!past.empty()) shard.past.push_back({local, past.begin, past.size()});
    local += chunk.size();
  }
  local = 0;
  for (int64_t b : partition.blocks_of(rank)) {
    Range block = partition.block(b);
    shard.blocks.push_back({local, block.begin, block.size()});
    shard.block_index.push_back(b);
    RESTKV_CHECK(local % kPanel == 0, "block {} starts at local index {}", b, local);
    local += block.size();
  }
  RESTKV_CHECK(local == shard.L_lc, "blocks of rank {} hold {} positions, {} owned", rank, local, shard.L_lc);
  return shard;
}

int64_t past_count_of(const SequencePartition& partition, int rank, int64_t P) {
  int64_t count = 0;
  for (Range chunk : partition.chunks_of(rank)) {
    Range past = intersect(chunk, {0, P});
    if (!past.empty()) count += past.size();
  }
  return count;
}

}  // namespace restkv
