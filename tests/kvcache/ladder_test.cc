// LaCache's ladder: counts and starts that follow from its definition, invariants over many shapes, and the policy.
#include "kvcache/ladder.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>

#include "dist/base/error.h"
#include "kvcache/policies/policy.h"
#include "tests/kvcache/random_case.h"

namespace restkv::testing {
namespace {

// The positions in the slots of every layer.
struct Layers {
  explicit Layers(const LadderShape& shape) : ladder(shape), slots(static_cast<size_t>(shape.layers)) {}

  void push(int64_t position) {
    for (auto& layer : slots) layer.push_back(position);
  }

  void compact() {
    const Ladder::Step step = ladder.compact(length());
    for (size_t layer = 0; layer < slots.size(); ++layer) {
      const LadderCuts cuts = step.of_layer(ladder.shape(), static_cast<int64_t>(layer));
      std::vector<int64_t> kept;
      for (int64_t slot = 0; slot < static_cast<int64_t>(slots[layer].size()); ++slot)
        if (const int64_t at = cuts.place(slot); at >= 0) {
          ASSERT_EQ(at, static_cast<int64_t>(kept.size())) << "layer " << layer << " slot " << slot;
          kept.push_back(slots[layer][static_cast<size_t>(slot)]);
        }
      ASSERT_EQ(static_cast<int64_t>(kept.size()), step.length) << "layer " << layer;
      slots[layer] = kept;
    }
  }

  int64_t length() const { return static_cast<int64_t>(slots[0].size()); }
  int64_t distinct() const {
    std::set<int64_t> all;
    for (const auto& layer : slots) all.insert(layer.begin(), layer.end());
    return static_cast<int64_t>(all.size());
  }
  std::vector<int64_t> first(size_t layer) const { return {slots[layer].begin(), slots[layer].begin() + 8}; }

  Ladder ladder;
  std::vector<std::vector<int64_t>> slots;
};

// The published code raises its capacity by half of what a block drops when it overflows for the first time.
LadderShape shape_of(int64_t layers, int64_t span, int64_t overlap, int64_t capacity, int64_t start) {
  LadderShape shape{layers, capacity, start, 0, span, overlap, LadderOffsets::rotated};
  shape.capacity += shape.dropped() / 2;
  return shape;
}

Layers token_by_token(const LadderShape& shape, int64_t n) {
  Layers layers(shape);
  for (int64_t i = 0; i < n; ++i) {
    layers.push(i);
    layers.compact();
  }
  return layers;
}

Layers at_once(const LadderShape& shape, int64_t n) {
  Layers layers(shape);
  for (int64_t i = 0; i < n; ++i) layers.push(i);
  layers.compact();
  return layers;
}

using Positions = std::vector<int64_t>;

TEST(Ladder, TokenByToken) {
  Layers layers = token_by_token(shape_of(32, 16, 0, 256, 4), 1024);
  EXPECT_EQ(layers.length(), 256);
  EXPECT_EQ(layers.distinct(), 368);
  EXPECT_EQ(layers.first(0), (Positions{0, 1, 2, 3, 4, 20, 36, 52}));
  EXPECT_EQ(layers.first(1), (Positions{0, 1, 2, 3, 19, 35, 51, 67}));
  layers = token_by_token(shape_of(32, 8, 4, 256, 4), 1024);
  EXPECT_EQ(layers.length(), 254);
  EXPECT_EQ(layers.distinct(), 628);
  layers = token_by_token(shape_of(24, 9, 7, 256, 4), 1024);
  EXPECT_EQ(layers.length(), 256);
  EXPECT_EQ(layers.distinct(), 589);
}

TEST(Ladder, LongPromptsAtOnce) {
  Layers layers = at_once(shape_of(32, 16, 0, 65536, 64), 131072);
  EXPECT_EQ(layers.length(), 65536);
  EXPECT_EQ(layers.distinct(), 130880);
  layers = at_once(shape_of(32, 16, 0, 1024, 4), 131072);  // thinned by 131
  EXPECT_EQ(layers.length(), 990);
  EXPECT_EQ(layers.distinct(), 31556);
}

// 8 layers, one token in 4 of them: blocks of two slots, one kept. Slots 2 .. 5 are cut, even layers keep the first.
TEST(Ladder, SmallCaseByHand) {
  LadderShape shape{8, 14, 2, 0, 4, 0, LadderOffsets::rotated};
  Layers layers = at_once(shape, 16);
  EXPECT_EQ(layers.slots[0], (Positions{0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(layers.slots[1], (Positions{0, 1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(layers.slots[7], layers.slots[1]);
  shape.offsets = LadderOffsets::contiguous;  // layers 0 to 3, then 4 to 7
  layers = at_once(shape, 16);
  EXPECT_EQ(layers.slots[3], (Positions{0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(layers.slots[4], (Positions{0, 1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}));
}

TEST(Ladder, KeepsFirstAndRecentWithinTheCapacity) {
  std::mt19937 random(5);
  auto draw = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  int valid = 0;
  for (int round = 0; round < 400; ++round) {
    LadderShape shape;
    shape.layers = draw(2, 40);
    shape.span = draw(1, shape.layers - 1);
    shape.overlap = draw(0, shape.span - 1);
    shape.start = draw(0, 20);
    shape.recent = draw(0, 40);
    shape.offsets = round % 2 == 0 ? LadderOffsets::rotated : LadderOffsets::contiguous;
    if (shape.dropped() < 1) continue;
    ++valid;
    shape.capacity = shape.least_capacity() + draw(0, 150);
    Layers layers = at_once(shape, draw(1, 20) * shape.capacity / 4 + shape.recent);
    int64_t next = layers.slots[0].back() + 1;
    for (int i = 0; i < 150; ++i) {
      for (const auto& slots : layers.slots) {
        ASSERT_LE(static_cast<int64_t>(slots.size()), shape.capacity);
        for (int64_t s = 0; s < std::min(shape.start, static_cast<int64_t>(slots.size())); ++s) ASSERT_EQ(slots[s], s);
        if (next < shape.recent) continue;
        for (int64_t r = 1; r <= shape.recent; ++r) ASSERT_EQ(slots[slots.size() - static_cast<size_t>(r)], next - r);
      }
      const int64_t more = draw(1, 3);
      for (int64_t t = 0; t < more; ++t) layers.push(next++);
      layers.compact();
      if (HasFatalFailure()) return;
      if (shape.recent == 0) next = std::max(next, layers.slots[0].back() + 1);
    }
  }
  EXPECT_GT(valid, 200);
}

TEST(Ladder, RefusesWhatHasNoSteps) {
  EXPECT_THROW(Ladder({8, 100, 4, 0, 8, 0, LadderOffsets::rotated}), InputError);  // one step
  EXPECT_THROW(Ladder({8, 100, 4, 0, 4, 4, LadderOffsets::rotated}), InputError);
  EXPECT_THROW(Ladder({5, 100, 4, 0, 3, 1, LadderOffsets::rotated}), InputError);  // blocks of two, both kept
  EXPECT_THROW(Ladder(shape_of(32, 16, 0, 36, 4)), InputError);
  EXPECT_NO_THROW(Ladder(shape_of(32, 16, 0, 37, 4)));
}

// The eviction of a layer keeps what the ladder keeps of the prompt, in all heads.
TEST(LaCache, KeepsTheLadder) {
  auto sequence = make_self_communicator("sequence"), tensor = make_self_communicator("tensor");
  for (const CacheConfig& config : lacache_configs())
    for (const auto& [name, shape] : case_shapes()) {
      EvictionCase c = random_case(name, shape, config, 3);
      if (!ladder_fits(c)) continue;
      for (c.layer = 0; c.layer < c.layers; ++c.layer) {
        const Layers layers = at_once(ladder_shape(c.config, c.layers, c.config.budget.tokens), c.L);
        const RankResult result = evict_case(c, *sequence, *tensor);
        ASSERT_FALSE(result.kept.empty());
        for (const auto& kept : result.kept)
          EXPECT_EQ(kept, layers.slots[static_cast<size_t>(c.layer)]) << name << " layer " << c.layer;
      }
    }
}

}  // namespace
}  // namespace restkv::testing
