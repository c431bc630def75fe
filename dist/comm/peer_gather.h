// The all-gather of short messages by a kernel that writes into the memory of the other ranks (peer_memory.h): a few
// microseconds where a library's collective takes twenty.
#pragma once

#include <cstdint>
#include <span>

#include "dist/base/context.h"
#include "dist/comm/peer_memory.h"

namespace restkv::gpu {

/// What a group of `size` ranks should push at most: bytes of one rank's message. Every byte is sent with a byte of
/// epoch, to each other rank: beyond it a collective that uses the links better is faster.
constexpr int64_t pushed_gather_bytes(int size) { return size > 1 ? (int64_t{2} << 20) / (size - 1) / 8 * 8 : 0; }

/// bytes[r] bytes of rank r go to recv + places[r] on every rank, whatever their alignment; send may be
/// recv + places[rank]. On the context's stream, in the order of the other exchanges over the same memory.
/// Precondition: no message is longer than 4 * peers.words bytes; at most kMaxPeers ranks.
void gather_over_peers(Context& ctx, const PeerView& peers, const void* send, void* recv,
                       std::span<const int64_t> bytes, std::span<const int64_t> places);

}  // namespace restkv::gpu
