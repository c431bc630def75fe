// Eviction while decoding, as the transformer sees it: which ranks hold which rows and heads, and where the rules get
// their queries from.
#include <algorithm>
#include <cmath>

#include "dist/base/error.h"
#include "kvcache/statistics/column_sums.h"
#include "model/decode_buffers.h"
#include "model/prefill_state.h"

namespace restkv {

std::unique_ptr<DecodeEvictor> Transformer::make_decode_evictor(const CacheConfig& cache) const {
  if (cache.decode.every == 0) return nullptr;
  const bool by_head = plan_.mode == DecodeMode::tensor;
  const int tensor = grid_.tensor_size();
  DecodeLayout layout;
  layout.rows = by_head ? self_.get() : &grid_.sequence();
  layout.heads = by_head ? &grid_.world() : &grid_.tensor();
  layout.mine = plan_.decode.heads;
  layout.resident = plan_.resident.heads.local;
  for (int r = 0; r < layout.heads->size(); ++r) {
    const int sequence_rank = by_head ? r / tensor : grid_.sequence_rank(), tensor_rank = by_head ? r % tensor : r;
    layout.ranges.push_back(
        make_shard_plan(config_, grid_.sequence_size(), tensor, sequence_rank, tensor_rank, plan_.mode)
            .decode.heads.local);
  }
  auto evictor = std::make_unique<DecodeEvictor>(ctx_, std::move(layout), cache, config_.layers);
  if (ctx_.device() == Device::gpu && cache.re_indexes() && evictor->reads_queries())
    fail_input(
        "cache.positions: found cache, with decode.every and cache.policy {} on GPUs original is allowed: "
        "its rule reads keys, which lie unrotated in the cache",
        cache.policy);
  return evictor;
}

// Whether the prefill keeps the queries of all positions, and not only those of the window.
bool Transformer::needs_prompt_queries(int64_t L) const {
  return (evictor_->evicts(L) && evictor_->needs_prompt_queries()) ||
         (decode_evictor_ && decode_evictor_->needs_column_sums());
}

// Rows of the window that are gathered from the queries of the sequence group; 0: nobody reads them.
int64_t Transformer::window_queries(int64_t L) const {
  if (evictor_->evicts(L) && evictor_->needs_window_queries()) return cache_config_.window;
  if (decode_evictor_ && decode_evictor_->needs_window_queries()) return std::min(L, cache_config_.window);
  return 0;
}

// Before the first layer is kept.
void Transformer::prepare_decode_eviction(Sequence& sequence) const {
  if (decode_evictor_ && decode_evictor_->needs_column_sums() && ctx_.device() == Device::gpu)
    sequence.cache.keep_sums();
}

// Rows that each head of a layer has room for beyond those that the prompt leaves.
int64_t Transformer::reserve_of(int64_t layer, const PrefillState& s) const {
  if (!decode_evictor_) return s.reserve;
  const int64_t L = s.partition.length();
  if (!spreads_rows()) return std::min(s.reserve, decode_evictor_->most_growth(L, layer, s.evicts));
  // Rows of CPU ranks grow as they come: PrefillState::reserve bounds it.
  if (ctx_.device() == Device::cpu) return s.reserve;
  return std::min(s.reserve, decode_evictor_->spread_growth(L, s.L_lc, layer, s.evicts));
}

// What the rules of decoding remember of a layer of the prompt.
void Transformer::begin_decode_eviction(const PrefillState& s, const int64_t* column_sums, Sequence& sequence) const {
  if (!decode_evictor_) return;
  PromptEnd end;
  std::vector<float> plain;
  if (!s.q_window.empty()) end.q_window = MatrixView(s.q_window);
  if (!s.q_window.empty() && cache_config_.re_indexes()) {
    plain = plain_window(s);
    end.q_window = MatrixView(plain.data(), s.q_window.size(0), s.q_window.size(1));
  }
  end.column_sums = column_sums;
  const Tensor& factors = weights_.layers[sequence.eviction.layers.size()].output_factors;  // layers come in order
  if (!factors.empty()) end.r = factors.data<float>();
  decode_evictor_->begin_layer(sequence.eviction, end, s.partition.length(), sequence.cache);
}

// CPU ranks. b.q [Hq_lc, d] and lse [Hq_lc] are those of the token's attention, over the rows of all ranks; keys: what
// it attended here.
void Transformer::evict_decoded(int64_t layer, const DecodeBuffers& b, const float* lse, const KvView& keys,
                                Sequence& sequence) {
  if (!decode_evictor_) return;
  const Tensor& factors = weights_.layers[layer].output_factors;
  DecodedToken token{layer, sequence.length,           sequence.length + 1 - sequence.prompt_tokens,     b.q.data(),
                     lse,   config_.attention_scale(), factors.empty() ? nullptr : factors.data<float>()};
  if (cache_config_.re_indexes()) {
    token.keys = &keys;
    token.plain_q = b.plain_q.data();
    token.rotations = slot_table_.data<float>();
  }
  decode_evictor_->after_token(sequence.eviction, token, sequence.cache);
}

}  // namespace restkv
