#include <algorithm>

#include "dist/base/gpu_handles.h"
#include "dist/comm/peer_exchange.h"
#include "dist/comm/peer_gather.h"

namespace restkv::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kMostBlocks = 128;  // one per multiprocessor: they are there at once, whatever else runs
constexpr int kAtOnce = 4;        // pairs of words that a thread waits for together

struct GatherArgs {
  PeerView peers;
  const unsigned char* send;
  unsigned char* recv;
  int64_t bytes[kMaxPeers];
  int64_t places[kMaxPeers];
};

// One at least: who has waited for a message of every rank knows that all have ended the exchange before (the protocol
// of peer_memory.h), so there are none without words.
__device__ inline int64_t pairs_of(int64_t bytes) { return bytes > 8 ? (bytes + 7) / 8 : 1; }

// Eight bytes at from + at, of which those behind `end` do not exist.
__device__ uint2 load_pair(const unsigned char* from, int64_t at, int64_t end) {
  if (at + 8 <= end && reinterpret_cast<uintptr_t>(from + at) % 8 == 0) {
    return __ldcg(reinterpret_cast<const uint2*>(from + at));
  }
  uint32_t word[2] = {};
  for (int i = 0; i < 8 && at + i < end; ++i) word[i / 4] |= static_cast<uint32_t>(from[at + i]) << (i % 4 * 8);
  return make_uint2(word[0], word[1]);
}

__device__ void store_pair(unsigned char* to, int64_t at, int64_t end, uint2 pair) {
  if (at + 8 <= end && reinterpret_cast<uintptr_t>(to + at) % 8 == 0) {
    *reinterpret_cast<uint2*>(to + at) = pair;
    return;
  }
  for (int i = 0; i < 8 && at + i < end; ++i)
    to[at + i] = static_cast<unsigned char>((i < 4 ? pair.x : pair.y) >> (i % 4 * 8));
}

// The pairs of rank `from`, as they arrive.
__device__ void receive(const GatherArgs& a, int from, int64_t bytes, unsigned char* to, uint32_t epoch) {
  const int64_t pairs = pairs_of(bytes), stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const uint64_t* slot = slot_of(a.peers, a.peers.rank, from, epoch);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; first < pairs;
       first += kAtOnce * stride) {
    Words words[kAtOnce];
    Patience patience;
    for (bool all = false; !all;) {
      all = true;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        if (first + j * stride < pairs) words[j] = peek_words(slot + (first + j * stride) * 2);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j)
        if (first + j * stride < pairs) all = all && has_epoch(words[j], epoch);
      if (!all && patience.ends(a.peers, from, epoch)) return;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j)
      if (first + j * stride < pairs)
        store_pair(to, (first + j * stride) * 8, bytes,
                   make_uint2(static_cast<uint32_t>(words[j].low), static_cast<uint32_t>(words[j].high)));
  }
}

__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ GatherArgs a) {
  const uint32_t epoch = begin_exchange(a.peers);
  const int rank = a.peers.rank;
  const int64_t own = a.bytes[rank], stride = static_cast<int64_t>(gridDim.x) * kThreads;
  unsigned char* own_place = a.recv + a.places[rank];
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < pairs_of(own); i += stride) {
    const uint2 pair = load_pair(a.send, i * 8, own);
    push_to_peers<kMaxPeers>(a.peers, i * 2, epoch, __uint_as_float(pair.x), __uint_as_float(pair.y));
    if (own_place != a.send) store_pair(own_place, i * 8, own, pair);
  }
#pragma unroll
  for (int r = 0; r < kMaxPeers; ++r)
    if (r < a.peers.size && r != rank) receive(a, r, a.bytes[r], a.recv + a.places[r], epoch);
}

}  // namespace

void gather_over_peers(Context& ctx, const PeerView& peers, const void* send, void* recv,
                       std::span<const int64_t> bytes, std::span<const int64_t> places) {
  GatherArgs a{};
  a.peers = peers;
  a.send = static_cast<const unsigned char*>(send);
  a.recv = static_cast<unsigned char*>(recv);
  int64_t most = 0;
  for (int r = 0; r < peers.size; ++r) {
    a.bytes[r] = bytes[static_cast<size_t>(r)];
    a.places[r] = places[static_cast<size_t>(r)];
    most = std::max(most, a.bytes[r]);
  }
  RESTKV_CHECK(most <= 4 * peers.words, "{} bytes over peer memory for messages of {}", most, 4 * peers.words);
  const int64_t wanted = ((most + 7) / 8 + kThreads - 1) / kThreads;
  const int64_t blocks = std::clamp<int64_t>(wanted, 1, std::min(kMostBlocks, ctx.gpu()->multiprocessors()));
  gather_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream_of(ctx)>>>(a);
  RESTKV_KERNEL_CHECK();
}

}  // namespace restkv::gpu
