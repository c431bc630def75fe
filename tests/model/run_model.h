// Shared by the tests that run whole models: grids, greedy continuation, kept sets over all ranks.
#pragma once

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>
#include <vector>

#include "model/sampler.h"
#include "model/transformer.h"
#include "tests/mpi_world.h"

namespace restkv::testing {

inline bool layout_allowed(const ModelConfig& config, int tensor) {
  auto allowed = allowed_tensor_sizes(config);
  return std::find(allowed.begin(), allowed.end(), tensor) != allowed.end();
}

/// Appends `steps` greedy tokens to a prefilled sequence.
inline std::vector<int32_t> continue_greedily(Transformer& model, Sequence& sequence, int steps) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < steps; ++i) {
    tokens.push_back(sample(sequence.logits, {}, 0, static_cast<uint64_t>(i)));
    if (i + 1 < steps) model.decode_step(sequence, tokens.back());
  }
  return tokens;
}

using KeptSet = std::set<std::tuple<int64_t, int64_t, int64_t>>;  // (layer, cache head of the model, position)

/// What all ranks hold together. `first_head`: the model's index of this rank's cache head 0.
inline KeptSet gather_kept(Communicator& world, const KvCache& cache, int64_t first_head) {
  std::vector<int64_t> mine;
  for (int64_t layer = 0; layer < cache.layers(); ++layer)
    for (int64_t head = 0; head < cache.heads(); ++head)
      for (int64_t position : cache.positions(layer, head))
        mine.insert(mine.end(), {layer, head + first_head, position});
  std::vector<int64_t> counts(static_cast<size_t>(world.size()), 0);
  counts[world.rank()] = static_cast<int64_t>(mine.size());
  world.all_reduce(std::span<int64_t>(counts));
  std::vector<int64_t> offsets(counts.size(), 0);
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), int64_t{0});
  std::vector<int64_t> all(static_cast<size_t>(offsets.back() + counts.back()));
  world.all_gather_v(mine.data(), all.data(), counts, offsets, DType::i64);
  KeptSet kept;
  for (size_t i = 0; i < all.size(); i += 3) kept.insert({all[i], all[i + 1], all[i + 2]});
  return kept;
}

inline double jaccard(const KeptSet& a, const KeptSet& b) {
  std::vector<KeptSet::value_type> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return static_cast<double>(both.size()) / static_cast<double>(a.size() + b.size() - both.size());
}

}  // namespace restkv::testing
