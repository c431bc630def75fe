#include "dist/base/staged_upload.h"

#include "dist/base/error.h"

namespace restkv {

StagedUpload::StagedUpload(Context& ctx, int64_t slot_bytes, int slots) : ctx_(ctx), slot_bytes_(slot_bytes) {
  RESTKV_CHECK(ctx.gpu() != nullptr && slot_bytes > 0 && slots > 0, "{} slots of {} bytes on {}", slots, slot_bytes,
               name_of(ctx.device()));
  for (int i = 0; i < slots; ++i) slots_.push_back({ctx.gpu()->allocate_pinned(slot_bytes), nullptr});
}

StagedUpload::~StagedUpload() {
  try {
    for (Slot& slot : slots_)
      if (slot.sent) ctx_.gpu()->wait(slot.sent.get());
  } catch (const Error&) {
    // A device error here has been, or will be, reported by the next call that waits.
  }
}

void StagedUpload::send(void* device, int64_t bytes, const std::function<void(void* host)>& fill) {
  RESTKV_CHECK(bytes <= slot_bytes_, "{} bytes through a slot of {}", bytes, slot_bytes_);
  Slot& slot = slots_[next_++ % slots_.size()];
  if (slot.sent) ctx_.gpu()->wait(slot.sent.get());
  fill(slot.memory.get());
  ctx_.gpu()->to_device_later(device, slot.memory.get(), bytes);
  slot.sent = ctx_.gpu()->mark();
}

}  // namespace restkv
