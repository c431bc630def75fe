// The memory of DeviceDecodeBatch; for its own files.
#pragma once

#include "model/decode_batch_device.h"

namespace restkv {

// Device memory of a batch, laid out for as many members as it began with.
struct DeviceDecodeBatch::Buffers {
  Buffers(Transformer& model, int64_t batch);

  /// Queries of all members in one layer.
  Tensor q_of(int64_t layer) const { return q.rows(q.size(0) > positions.size(0) ? layer * batch() : 0, batch()); }
  int64_t batch() const { return positions.size(0); }

  DecodeHeads heads;
  DecodeStream stream;
  Tensor q, k, v;              // bf16 [batch, Hq_lc d], [batch, Hkv_lc d]; q of every layer where eviction reads them
  Tensor attended, activated;  // bf16 [batch, Hq_lc d], [batch, I_lc]
  Tensor terms;                // f32 [batch, H] what goes to the stream, where it is summed or normed first
  Tensor partial;              // f32 [batch Hq_lc (d + 1)] attention of this rank's tokens: outputs, log-sum-exps
  Tensor lse;                  // f32 [layers, batch, Hq_lc] of the step's scores, where eviction reads them
  Tensor logits;               // f32 [batch, vocab]
  Tensor attention_scratch;
  DecodeGroupBuffers exchanged;
  Tensor frequencies;                 // f32 [d/2], or [batch, d/2]
  Tensor tokens, positions;           // i32 [batch]
  Tensor owners, prompts;             // i32 [batch] whether this rank keeps the next token; lengths of the prompts
  Tensor steps;                       // i32 [batch] tokens sampled so far
  Tensor parameters;                  // SequenceSampling [batch]
  Tensor caches;                      // DeviceKvLayer [batch, layers]
  Tensor evictions;                   // DeviceEvictRecord [batch], with eviction while decoding
  GatheredQueries gathered;           // of whole groups, where query heads of one KV head lie on several ranks
  std::shared_ptr<void> host_tokens;  // i32 [batch], pinned

  // Positions in the cache (decode_slots_device.cc); else empty.
  Tensor no_rotation;        // f32 [d/2] zeros
  Tensor no_owners;          // i32 [batch] zeros
  Tensor attended_rows;      // i32 [batch, cache heads] rows that attention reads
  Tensor views;              // DeviceKvLayer [batch, layers]
  std::vector<Tensor> keys;  // bf16 [rows of a layer's storage, d] of each member: keys turned by their slots
};

}  // namespace restkv
