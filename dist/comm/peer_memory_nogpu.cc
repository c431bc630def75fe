// Peer memory in a build without CUDA: there is none.
#include "dist/comm/peer_memory.h"

namespace restkv {

std::unique_ptr<PeerMemory> PeerMemory::create(Context&, Communicator&, const std::vector<int>&, const Options&,
                                               std::string* reason) {
  if (reason != nullptr) *reason = "this build has no CUDA backend";
  return nullptr;
}

}  // namespace restkv
