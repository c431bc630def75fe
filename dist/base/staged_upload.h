// Host data on its way to a GPU, through a few pinned buffers: while one is copied, the next is filled.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "dist/base/context.h"

namespace restkv {

class StagedUpload {
 public:
  /// Precondition: ctx is on a GPU and outlives the object.
  StagedUpload(Context& ctx, int64_t slot_bytes, int slots);
  /// Waits until the last copy is done.
  ~StagedUpload();
  StagedUpload(const StagedUpload&) = delete;
  StagedUpload& operator=(const StagedUpload&) = delete;

  int64_t slot_bytes() const { return slot_bytes_; }

  /// Copies `bytes` (at most slot_bytes) to `device` in stream order. `fill` writes them into host memory and returns
  /// before the copy begins; it waits only while all buffers are on their way.
  void send(void* device, int64_t bytes, const std::function<void(void* host)>& fill);

 private:
  struct Slot {
    std::shared_ptr<void> memory;
    std::shared_ptr<void> sent;  // a mark; null: free
  };
  Context& ctx_;
  int64_t slot_bytes_;
  std::vector<Slot> slots_;
  size_t next_ = 0;
};

}  // namespace restkv
