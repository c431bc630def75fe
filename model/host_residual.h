// The residual stream of a prefill in chunks, at home in host memory: of the chunks that the computation goes through
// one is on the device, and the next on its way.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "dist/base/copy_lane.h"
#include "model/prefill_chunks.h"

namespace restkv {

/// Goes through the chunks in their order, again and again; in the first pass they come from the computation alone.
/// Two buffers take turns. When a chunk is left, its rows go home and the chunk after the next comes in their place,
/// both beside the computation of the chunk between: one lane of copies, whose order is all that keeps them apart.
class HostResidual {
 public:
  /// home: host_rows() [L_lc, H], which outlives the object. chunks: two or more. passes: how often all are visited.
  HostResidual(Context& ctx, Tensor home, std::vector<PrefillPart> chunks, int64_t passes);
  ~HostResidual();
  HostResidual(const HostResidual&) = delete;
  HostResidual& operator=(const HostResidual&) = delete;

  /// The next chunk's rows, f32 [rows, H] on the device; theirs until leave(). Undefined in the first pass.
  Tensor enter();
  /// Ends the visit. `changed`: the rows go home.
  void leave(bool changed);
  /// A local row, as its chunk was left last, to `row` [H] on the device. Between visits.
  void fetch_row(int64_t local, const Tensor& row);

 private:
  const PrefillPart& chunk_of(int64_t visit) const { return chunks_[static_cast<size_t>(visit) % chunks_.size()]; }
  void* home_of(const PrefillPart& chunk) const { return home_.rows(chunk.first, chunk.rows).raw(); }
  Tensor buffer_of(int64_t visit) const {
    return buffers_[static_cast<size_t>(visit % 2)].rows(0, chunk_of(visit).rows);
  }

  Tensor home_;
  std::vector<PrefillPart> chunks_;
  int64_t visits_, visit_ = 0;
  std::array<Tensor, 2> buffers_;
  std::array<std::shared_ptr<void>, 2> ready_;  // the buffer's rows have come, or have gone
  std::unique_ptr<CopyLane> lane_;
};

}  // namespace restkv
