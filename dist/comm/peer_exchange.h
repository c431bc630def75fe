// The kernels' side of peer memory (peer_memory.h), for *_gpu.cu files.
//
// A kernel that exchanges calls begin_exchange() once in every block, after waiting for the kernel before it; pushes
// all its words to every peer; then polls for theirs. All its blocks must fit on the GPU at once: a block that waits
// for a peer's block keeps its place.
#pragma once

#include <cuda_runtime.h>

#include "dist/comm/peer_memory.h"

namespace restkv::gpu {

/// Two words, 16 bytes: each of them is written and read as one.
struct Words {
  uint64_t low, high;
};

__device__ inline uint64_t make_word(float payload, uint32_t epoch) {
  return static_cast<uint64_t>(epoch) << 32 | __float_as_uint(payload);
}
__device__ inline float payload_of(uint64_t word) { return __uint_as_float(static_cast<uint32_t>(word)); }
__device__ inline bool has_epoch(const Words& w, uint32_t epoch) {
  return static_cast<uint32_t>(w.low >> 32) == epoch && static_cast<uint32_t>(w.high >> 32) == epoch;
}

__device__ inline void push_words(uint64_t* to, float low, float high, uint32_t epoch) {
  asm volatile("st.volatile.global.v2.b64 [%0], {%1, %2};" ::"l"(to), "l"(make_word(low, epoch)),
               "l"(make_word(high, epoch))
               : "memory");
}
__device__ inline Words peek_words(const uint64_t* from) {
  Words w;
  asm volatile("ld.volatile.global.v2.b64 {%0, %1}, [%2];" : "=l"(w.low), "=l"(w.high) : "l"(from) : "memory");
  return w;
}

/// The slot in the memory of rank `owner` that rank `writer` fills in this epoch.
__device__ inline uint64_t* slot_of(const PeerView& p, int owner, int writer, uint32_t epoch) {
  return p.block[owner] + (static_cast<int64_t>(epoch & 1) * p.size + writer) * p.words;
}

// After 2^32 - 1 comes 2: 0 is what fresh memory holds, and the buffers go on taking turns.
__device__ inline uint32_t next_epoch(uint32_t epoch) { return epoch == 0xffffffffu ? 2 : epoch + 1; }

/// This exchange's epoch, on every thread of the block. The last block to ask sets the next one, long before the
/// kernel's end.
__device__ inline uint32_t begin_exchange(const PeerView& p) {
  __shared__ uint32_t shared_epoch;
  if (threadIdx.x == 0) {
    const uint32_t epoch = *reinterpret_cast<volatile uint32_t*>(p.state);
    const uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
    uint32_t before;
    // Released and acquired: every block's read above comes before the last one's write.
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(p.state + 1) : "memory");
    if (before == blocks - 1) {
      *reinterpret_cast<volatile uint32_t*>(p.state + 1) = 0;
      *reinterpret_cast<volatile uint32_t*>(p.state) = next_epoch(epoch);
    }
    shared_epoch = epoch;
  }
  __syncthreads();
  return shared_epoch;
}

/// Ends a wait that lasts too long. After a fault no kernel waits any more.
class Patience {
 public:
  /// To be called between two looks at the memory of `peer`; true: give up.
  __device__ bool ends(const PeerView& p, int peer, uint32_t epoch) {
    if ((++looks_ & 1023) != 0) return false;
    if (*reinterpret_cast<volatile uint32_t*>(p.state + 2) != 0) return true;
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (until_ == 0) until_ = now + p.timeout_ns;
    if (now < until_) return false;
    *reinterpret_cast<volatile uint64_t*>(p.fault) =
        uint64_t{1} << 63 | static_cast<uint64_t>(peer) << 32 | static_cast<uint64_t>(epoch);
    __threadfence_system();
    *reinterpret_cast<volatile uint32_t*>(p.state + 2) = 1;
    return true;
  }

 private:
  uint32_t looks_ = 0;
  uint64_t until_ = 0;
};

/// The two words that every other rank has put at `at` of its slot here, as floats; the own ones stay as they are.
/// N >= p.size. All looks of a round are under way together.
template <int N>
__device__ inline void poll_words(const PeerView& p, int64_t at, uint32_t epoch, float2 (&values)[N]) {
  Patience patience;
  for (;;) {
    Words words[N];
    int missing = -1;
#pragma unroll
    for (int r = 0; r < N; ++r)
      if (r < p.size && r != p.rank) words[r] = peek_words(slot_of(p, p.rank, r, epoch) + at);
#pragma unroll
    for (int r = 0; r < N; ++r)
      if (r < p.size && r != p.rank) {
        if (!has_epoch(words[r], epoch)) missing = r;
        values[r] = make_float2(payload_of(words[r].low), payload_of(words[r].high));
      }
    if (missing < 0 || patience.ends(p, missing, epoch)) return;
  }
}

/// The same two words to all other ranks.
template <int N>
__device__ inline void push_to_peers(const PeerView& p, int64_t at, uint32_t epoch, float low, float high) {
#pragma unroll
  for (int r = 0; r < N; ++r)
    if (r < p.size && r != p.rank) push_words(slot_of(p, r, p.rank, epoch) + at, low, high, epoch);
}

}  // namespace restkv::gpu
