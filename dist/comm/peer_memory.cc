#include "dist/comm/peer_memory.h"

#include "dist/base/error.h"

namespace restkv {

void PeerMemory::check(const char* what) const {
  if (view_.fault == nullptr) return;
  const uint64_t fault = *const_cast<const volatile uint64_t*>(view_.fault);
  if (fault == 0) return;
  const auto peer = static_cast<size_t>(fault >> 32 & 0xff);
  fail_runtime("rank {}, {}: rank {} sent nothing for {} s (exchange {} over peer memory)",
               group_.at(static_cast<size_t>(view_.rank)), what, group_.at(peer), timeout_s_, fault & 0xffffffffu);
}

}  // namespace restkv
