#include "model/host_residual.h"

#include "dist/base/error.h"

namespace restkv {

HostResidual::HostResidual(Context& ctx, Tensor home, std::vector<PrefillPart> chunks, int64_t passes)
    : home_(std::move(home)),
      chunks_(std::move(chunks)),
      visits_(passes * static_cast<int64_t>(chunks_.size())),
      lane_(make_copy_lane(ctx)) {
  // A chunk that comes again at once would be fetched before it has been sent home.
  RESTKV_CHECK(chunks_.size() > 1, "{} chunks", chunks_.size());
  for (Tensor& buffer : buffers_) buffer = ctx.empty(DType::f32, {largest_chunk(chunks_), home_.size(1)});
}

// The buffers return to the computation's stream, which must not give them to others before the copies are done.
HostResidual::~HostResidual() {
  try {
    lane_->join(lane_->mark().get());
  } catch (...) {  // the device has failed: nothing is left to keep in order
  }
}

Tensor HostResidual::enter() {
  RESTKV_CHECK(visit_ < visits_, "visit {} of {}", visit_, visits_);
  lane_->join(ready_[static_cast<size_t>(visit_ % 2)].get());
  return buffer_of(visit_);
}

void HostResidual::leave(bool changed) {
  const PrefillPart& chunk = chunk_of(visit_);
  const Tensor rows = buffer_of(visit_);
  lane_->follow();
  if (changed) lane_->to_host(home_of(chunk), rows.raw(), rows.bytes());
  // It was left at least two visits ago, or just now: what it became is at home, by the lane's order.
  const int64_t coming = visit_ + 2;
  if (coming < visits_ && coming >= static_cast<int64_t>(chunks_.size())) {
    const Tensor next = buffer_of(coming);
    lane_->to_device(next.raw(), home_of(chunk_of(coming)), next.bytes());
  }
  ready_[static_cast<size_t>(visit_ % 2)] = lane_->mark();
  ++visit_;
}

void HostResidual::fetch_row(int64_t local, const Tensor& row) {
  lane_->follow();
  lane_->to_device(row.raw(), home_.rows(local, 1).raw(), row.bytes());
  lane_->join(lane_->mark().get());
}

}  // namespace restkv
