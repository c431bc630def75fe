#include "kvcache/ladder.h"

#include <algorithm>

#include "dist/base/error.h"

namespace restkv {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t LadderShape::block() const { return 1 + ceil_div(layers - span, span - overlap); }

int64_t LadderShape::run() const { return std::min(ceil_div(span, span - overlap), block()); }

int64_t LadderShape::least_capacity() const { return start + reserve() + run(); }

void LadderShape::validate() const {
  if (span < 1 || span >= layers)
    fail_input("cache.ladder_span: found {}, allowed for {} layers: 1 to {}", span, layers, layers - 1);
  if (overlap < 0 || overlap >= span)
    fail_input("cache.ladder_overlap: found {}, allowed with a span of {}: 0 to {}", overlap, span, span - 1);
  if (dropped() < 1)
    fail_input(
        "cache.ladder_overlap: found {}, allowed with a span of {} in {} layers: less, every block is kept whole",
        overlap, span, layers);
  if (capacity < least_capacity())
    fail_input(
        "cache.budget: found {} tokens, allowed with the ladder: at least {} ({} first ones, {} recent, {} more)",
        capacity, least_capacity(), start, reserve(), run());
}

Ladder::Ladder(const LadderShape& shape) : shape_(shape), cursor_(shape.start) { shape_.validate(); }

// The most recent slots stay where the blocks reach into them. A last block that is cut short by the end keeps its run
// if those of all layers fit: all layers keep equally many.
LadderCut Ladder::cut(int64_t start, int64_t blocks, int64_t block, int64_t spacing, int64_t length) const {
  LadderCut cut{start, start + blocks * block, blocks, block, shape_.run(), spacing, 0};
  if (cut.end <= length - shape_.recent) return cut;
  cut.end = length - shape_.recent;
  int64_t reach = 0;  // slots of a block up to the last that a layer keeps
  for (int64_t layer = 0; layer < shape_.layers; ++layer)
    reach = std::max(reach, ladder_offset(shape_, cut, layer) + spacing * (cut.run - 1) + 1);
  const int64_t rest = (cut.end - start) % block;
  cut.blocks = (cut.end - start) / block + (rest >= reach ? 1 : 0);
  return cut;
}

Ladder::Step Ladder::compact(int64_t length) {
  Step step;
  step.length = length;
  if (length <= shape_.capacity) return step;
  const int64_t block = shape_.block(), run = shape_.run(), dropped = shape_.dropped();
  const int64_t need = length - shape_.capacity;
  // Blocks after the cursor that leave the reserve alone.
  const int64_t room = std::max<int64_t>(0, shape_.capacity - cursor_ - shape_.reserve()) / run;
  step.first = cut(cursor_, std::min(room, ceil_div(need, dropped)), block, 1, length);
  step.length = step.first.left(length);
  cursor_ += step.first.blocks * run;
  if (step.length <= shape_.capacity) return step;

  // Not enough: once more from the start, over old runs and new slots alike, thinner by as much as it takes.
  const int64_t missing = step.length - shape_.capacity;
  const int64_t once = (shape_.capacity - shape_.start - shape_.reserve()) / run * dropped;
  const int64_t spacing = ceil_div(missing, once), wide = block + (spacing - 1) * (block - 1);
  step.second = cut(shape_.start, ceil_div(missing, wide - run), wide, spacing, step.length);
  step.length = step.second.left(step.length);
  cursor_ = shape_.start + step.second.blocks * run;
  RESTKV_CHECK(step.length <= shape_.capacity, "a ladder of {} slots for {}", step.length, shape_.capacity);
  return step;
}

}  // namespace restkv
