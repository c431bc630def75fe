// Positions in the cache (kvcache/slots.h), as the transformer sees them: keys are cached as they are before their
// rotation, and turned by their slots in every step.
#include <algorithm>
#include <numeric>

#include "dist/base/error.h"
#include "kvcache/slots.h"
#include "model/decode_buffers.h"
#include "model/ops/cache_rope.h"
#include "model/prefill_state.h"

namespace restkv {

void Transformer::check_positions(const CacheConfig& cache) const {
  if (cache.re_indexes() && config_.rope.type == "dynamic")
    fail_input(
        "cache.positions: found {} with policy {}, allowed with the rope type dynamic, whose frequencies follow the "
        "length of the text: original",
        cache.positions == Positions::automatic ? "auto, which is cache," : "cache", cache.policy);
}

int64_t decode_room(const ModelConfig& model, const CacheConfig& cache, int64_t L) {
  const int64_t heads = cache.granularity == Granularity::query_head ? model.Hq : model.Hkv;
  return decode_room(cache, {model.layers, heads}, L, model.max_positions);
}

void Transformer::check_next(const Sequence& sequence) const {
  if (sequence.length >= sequence.end)
    fail_input("decode: position {} is beyond the model's {} positions{}", sequence.length, config_.max_positions,
               cache_config_.re_indexes() ? ": the cache holds as many rows" : "");
}

// [slots or more, 2, d/2]
const Tensor& Transformer::slot_table(int64_t slots) {
  if (slot_table_.empty() || slot_table_.size(0) < slots) {
    int64_t size = 256;
    while (size < slots) size *= 2;
    std::vector<int64_t> positions(static_cast<size_t>(size));
    std::iota(positions.begin(), positions.end(), 0);
    slot_table_ = rope_table(ctx_, frequencies_, positions, config_.rope.attention_factor);
  }
  return slot_table_;
}

// b.q turned by the slots of the new token, and the layer's rows with keys turned by theirs.
KvView Transformer::rotate_by_slots(int64_t layer, const Sequence& sequence, const std::vector<int64_t>& head,
                                    const std::vector<int64_t>& slot, DecodeBuffers& b) {
  b.plain_q = b.q;
  KvView view = sequence.cache.view(layer);
  if (slot.empty()) return view;
  const Tensor& table = slot_table(*std::max_element(slot.begin(), slot.end()) + 1);
  rotate_queries(ctx_, b.q.data(), head, slot, config_.d, table);
  b.keys.resize(std::max(b.keys.size(), static_cast<size_t>(sequence.cache.storage_rows(layer) * config_.d)));
  rotate_cache(ctx_, view, table, b.keys.data());
  view.k = b.keys.data();
  return view;
}

// After a layer's rows were stored where they lay: their slots over the sequence group.
void Transformer::number_kept(int64_t layer, const KeptRows& kept, const PrefillState& s, Sequence& sequence) const {
  const int64_t in_group = kept.in_group >= 0 ? kept.in_group : s.partition.length();
  int64_t most = 0;
  for (int rank = 0; rank < s.partition.ranks(); ++rank)
    most = std::max(most, std::min(in_group, s.partition.local_size(rank)));
  number_slots(ctx_, grid_.sequence(), sequence.cache, layer, most);
}

// [W, Hq_lc d] the window's queries as they were before their rotation.
std::vector<float> Transformer::plain_window(const PrefillState& s) const {
  const int64_t W = s.q_window.size(0), width = s.q_window.size(1), half = config_.d / 2, L = s.partition.length();
  std::vector<int64_t> positions(static_cast<size_t>(W));
  std::iota(positions.begin(), positions.end(), L - W);
  const auto factor = static_cast<float>(config_.rope.attention_factor);
  const Tensor table = rope_table(ctx_, frequencies_, positions, config_.rope.attention_factor);
  const MatrixView rotated(s.q_window);
  std::vector<float> plain(static_cast<size_t>(W * width));
  for (int64_t w = 0; w < W; ++w) {
    const float *cos = table.data<float>() + 2 * w * half, *sin = cos + half;
    for (int64_t first = 0; first < width; first += config_.d)
      for (int64_t i = 0; i < half; ++i) {
        const float a = rotated.row<float>(w)[first + i], b = rotated.row<float>(w)[first + i + half];
        plain[static_cast<size_t>(w * width + first + i)] = (a * cos[i] + b * sin[i]) / (factor * factor);
        plain[static_cast<size_t>(w * width + first + i + half)] = (b * cos[i] - a * sin[i]) / (factor * factor);
      }
  }
  return plain;
}

}  // namespace restkv
