// LaCache's ladder (ICML 2025): which slots of a cache stay when it overflows. Between the first slots, which are never
// touched, and the most recent ones, the cache is cut into blocks; of each block a layer keeps a short run, and the
// runs of different layers lie at different places, so that together the layers remember more tokens than one has
// slots. Integer arithmetic alone: the same on every rank, for all heads of a layer.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/base/mix.h"

namespace restkv {

/// Where in a block the run of layer i lies.
enum class LadderOffsets {
  rotated,     ///< i modulo the number of places, as the published code does
  contiguous,  ///< in steps of span - overlap layers, early layers keep early tokens: as the paper draws it
};

struct LadderShape {
  int64_t layers = 0;
  int64_t capacity = 0;  ///< slots per layer
  int64_t start = 0;     ///< first slots, never touched
  int64_t recent = 0;    ///< last slots that are kept in any case
  int64_t span = 0;      ///< layers that hold one token: 1 to layers - 1
  int64_t overlap = 0;   ///< layers that two neighbouring tokens share: 0 to span - 1
  LadderOffsets offsets = LadderOffsets::rotated;

  int64_t block() const;  ///< slots of a block: 1 + ceil((layers - span) / (span - overlap))
  int64_t run() const;    ///< slots that a layer keeps of it
  int64_t dropped() const { return block() - run(); }
  /// Slots at the end that blocks leave alone where they can: as many as layers, as published.
  int64_t reserve() const { return recent > layers ? recent : layers; }
  /// The fewest slots with which the ladder works.
  int64_t least_capacity() const;
  /// Throws InputError naming the keys of the configuration.
  void validate() const;
};

/// Slots [start, end) are cut into blocks from `start` on; the first `blocks` keep `run` slots each, `spacing` apart
/// from `offset` on, and nothing else between start and end stays.
struct LadderCut {
  int64_t start = 0, end = 0, blocks = 0, block = 1, run = 1, spacing = 1, offset = 0;

  /// Where the slot is afterwards; -1: it is dropped.
  RESTKV_HOST_DEVICE constexpr int64_t place(int64_t slot) const {
    if (slot < start) return slot;
    if (slot >= end) return start + blocks * run + (slot - end);
    const int64_t j = (slot - start) / block, k = (slot - start) % block - offset;
    if (j >= blocks || k < 0 || k % spacing != 0 || k / spacing >= run) return -1;
    return start + j * run + k / spacing;
  }
  /// Slots that are left of `length`.
  constexpr int64_t left(int64_t length) const { return start + blocks * run + (length - end); }
};

/// Where the run of a layer begins in a block. The last place is the one from which the run still fits.
RESTKV_HOST_DEVICE constexpr int64_t ladder_offset(const LadderShape& shape, const LadderCut& cut, int64_t layer) {
  const int64_t last = cut.block - 1 - cut.spacing * (cut.run - 1);
  if (shape.offsets == LadderOffsets::rotated) return layer % (last + 1);
  const int64_t above = layer - shape.span, stride = shape.span - shape.overlap;
  const int64_t offset = above < 0 ? 0 : above / stride + 1;
  return offset < last ? offset : last;
}

/// What one compaction does to a layer: the first cut, then the second on what is left (often neither does anything).
struct LadderCuts {
  LadderCut first, second;
  RESTKV_HOST_DEVICE constexpr int64_t place(int64_t slot) const {
    const int64_t at = first.place(slot);
    return at < 0 ? -1 : second.place(at);
  }
};

/// The compactions of one sequence. Value type: a copy goes on by itself.
class Ladder {
 public:
  /// Throws InputError as LadderShape::validate().
  explicit Ladder(const LadderShape& shape);

  struct Step {
    int64_t length = 0;  ///< slots afterwards, of every layer
    LadderCut first, second;
    /// The step as layer `layer` takes it.
    RESTKV_HOST_DEVICE constexpr LadderCuts of_layer(const LadderShape& shape, int64_t layer) const {
      LadderCuts cuts{first, second};
      cuts.first.offset = ladder_offset(shape, first, layer);
      cuts.second.offset = ladder_offset(shape, second, layer);
      return cuts;
    }
  };

  /// Compacts a cache of `length` slots to at most shape().capacity; does nothing when it is not longer.
  Step compact(int64_t length);

  const LadderShape& shape() const { return shape_; }

 private:
  LadderCut cut(int64_t start, int64_t blocks, int64_t block, int64_t spacing, int64_t length) const;

  LadderShape shape_;
  int64_t cursor_;  // blocks before it were cut
};

}  // namespace restkv
