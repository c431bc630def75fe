// A communicator that compares the ranks' calls before it makes them.
#pragma once

#include <memory>

#include "dist/comm/communicator.h"

namespace restkv {

/// Forwards every call to `inner` (and to the groups split from it), after the ranks have exchanged what they are
/// about to call. When they differ in the call, count, type, operation, root or placement, all ranks throw a
/// RuntimeFailure that tells the two calls, where the library underneath may hang, corrupt memory or give a wrong
/// result. Costs one small all_gather per call, for which the host waits; not counted in stats(). It goes over `host`,
/// a group of the same ranks in the same order that moves CPU memory: `inner` itself when null. send_recv is forwarded
/// as it is: it concerns pairs of ranks, and the receiver checks the length.
std::unique_ptr<Communicator> make_checked_communicator(std::unique_ptr<Communicator> inner,
                                                        std::unique_ptr<Communicator> host = nullptr);

}  // namespace restkv
