// Memory of every GPU of a group that the kernels of all of them can write, so that a kernel exchanges a few kilobytes
// by itself: no launch of a library's own kernel in between, and a microsecond or two instead of ten.
//
// The protocol (peer_exchange.h has the kernels' side): a word is 4 bytes of payload and 4 bytes of epoch, written
// and read as one, so that a reader that sees the epoch it waits for has the payload too, without any fence. Every
// exchange has its own epoch; two buffers take turns. A rank that writes for epoch e + 1 has ended e, for which every
// other rank had begun e and so ended e - 1: what it overwrites has been read.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/communicator.h"

namespace restkv {

inline constexpr int kMaxPeers = 8;

/// The memory as kernels see it. Pointers are this process's own addresses of it.
struct PeerView {
  int rank = 0, size = 1;           ///< in the group
  int64_t words = 0;                ///< of a slot
  uint64_t* block[kMaxPeers] = {};  ///< [2 buffers][size slots, one per writing rank][words] in the memory of rank r
  uint32_t* state = nullptr;        ///< on this GPU: the epoch to come, blocks that have read it, 1 after a fault
  uint64_t* fault = nullptr;        ///< host memory: 0, or what a kernel waited for in vain (PeerMemory::check)
  uint64_t timeout_ns = 0;          ///< longest wait of a kernel
};

class PeerMemory {
 public:
  struct Options {
    int64_t words = 0;        ///< the longest message, in words of 4 bytes of payload
    double timeout_s = 30.0;  ///< longest wait for a peer; 0: for ever
  };

  /// `group`: the ranks of `control` that exchange, in the group's order, this one among them; other ranks may form
  /// groups of their own at the same time. Collective over `control` (host memory). Null on every rank of `control`
  /// when some rank cannot reach a peer's memory (another host, no access between the GPUs, more than kMaxPeers ranks);
  /// `reason` then says why. `control` outlives the result.
  static std::unique_ptr<PeerMemory> create(Context& ctx, Communicator& control, const std::vector<int>& group,
                                            const Options& options, std::string* reason = nullptr);

  /// Collective over `control`, unless an exception unwinds: the other ranks may never come then, and the memory stays.
  virtual ~PeerMemory() = default;
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  const PeerView& view() const { return view_; }

  /// After waiting for the device: throws RuntimeFailure when a kernel gave up waiting for another rank. The results
  /// since then are of no use, and the memory is not either.
  void check(const char* what) const;

  /// Device memory of one rank.
  static int64_t bytes(int size, int64_t words) { return 2 * size * words * int64_t{sizeof(uint64_t)}; }

 protected:
  PeerMemory() = default;
  PeerView view_;
  double timeout_s_ = 0.0;
  std::vector<int> group_;  ///< ranks of `control`
};

}  // namespace restkv
