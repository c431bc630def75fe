#include <algorithm>
#include <bit>
#include <cstring>

#include "dist/base/error.h"
#include "dist/base/lanes.h"
#include "kvcache/select/radix_pass.h"

namespace restkv::cpu {
namespace {

constexpr int64_t kChunk = 256;

// Calls body(keys, count, local, global) for runs of at most kChunk values of a row. Keys are made apart from their
// use, because making them vectorises and counting them does not.
template <class F>
void for_key_chunks(const SelectRows& input, int64_t row, F&& body) {
  uint32_t keys[kChunk] = {};
  for (const Segment& segment : *input.segments) {
    const float* values = input.values + row * input.stride + segment.local;
    for (int64_t first = 0; first < segment.count; first += kChunk) {
      const int64_t count = std::min(kChunk, segment.count - first);
      for (int64_t i = 0; i < count; ++i) keys[i] = order_key(values[first + i]);
      body(keys, count, segment.local + first, segment.global + first);
    }
  }
}

// Calls body(i) for i in [0, count) with keys[i] >> shift == prefix, ascending. Few match, so sixteen are tested at
// once and a run without a match costs no branch miss. keys has room for a multiple of kLanes.
template <class F>
void for_matches(const uint32_t* keys, int64_t count, int shift, uint32_t prefix, F&& body) {
  typedef uint32_t KeyLanes __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  typedef int8_t ByteLanes __attribute__((vector_size(kLanes)));
  for (int64_t first = 0; first < count; first += kLanes) {
    KeyLanes key;
    std::memcpy(&key, keys + first, sizeof(key));
    const ByteLanes equal = __builtin_convertvector(key >> shift == prefix, ByteLanes);
    uint64_t mask[2];
    std::memcpy(mask, &equal, sizeof(mask));
    for (int64_t half = 0; half < 2; ++half)
      for (uint64_t m = mask[half] & 0x0101010101010101u; m != 0; m &= m - 1) {
        const int64_t i = first + half * 8 + std::countr_zero(m) / 8;
        if (i < count) body(i);
      }
  }
}

}  // namespace

void count_keys(Context& ctx, const SelectRows& input, const RadixRow* state, Digit digit, int32_t* histogram) {
  const int64_t bins = digit.bins();
  const uint32_t mask = static_cast<uint32_t>(bins - 1);
  const int above = digit.shift + digit.bits;
  ctx.parallel_for(input.rows, [&](int64_t row) {
    int32_t* count = histogram + row * bins;
    std::fill_n(count, bins, 0);
    if (above == 32) {
      // Neighbours often share the first digit, and a counter takes several cycles until it can be raised again.
      constexpr int64_t kCopies = 4;
      thread_local std::vector<int32_t> copies;
      copies.assign(static_cast<size_t>(kCopies * bins), 0);
      int32_t* c = copies.data();
      for_key_chunks(input, row, [&](const uint32_t* keys, int64_t n, int64_t, int64_t) {
        int64_t i = 0;
        for (; i + kCopies <= n; i += kCopies)
          for (int64_t j = 0; j < kCopies; ++j) ++c[j * bins + (keys[i + j] >> digit.shift)];
        for (; i < n; ++i) ++c[keys[i] >> digit.shift];
      });
      for (int64_t j = 0; j < kCopies; ++j)
        for (int64_t bin = 0; bin < bins; ++bin) count[bin] += c[j * bins + bin];
      return;
    }
    for_key_chunks(input, row, [&](const uint32_t* keys, int64_t n, int64_t, int64_t) {
      for_matches(keys, n, above, state[row].prefix, [&](int64_t i) { ++count[(keys[i] >> digit.shift) & mask]; });
    });
  });
}

void count_tie_positions(Context& ctx, const SelectRows& input, const std::vector<int64_t>& row_id,
                         const std::vector<uint32_t>& wanted_key, const RadixRow* state, Digit digit,
                         int32_t* histogram) {
  const int64_t bins = digit.bins();
  ctx.parallel_for(static_cast<int64_t>(row_id.size()), [&](int64_t j) {
    int32_t* count = histogram + j * bins;
    std::fill_n(count, bins, 0);
    const uint64_t prefix = state[j].prefix;
    for_key_chunks(input, row_id[j], [&](const uint32_t* keys, int64_t n, int64_t, int64_t global) {
      for_matches(keys, n, 0, wanted_key[j], [&](int64_t i) {
        const uint64_t position = static_cast<uint64_t>(global + i);
        if (position >> (digit.shift + digit.bits) == prefix)
          ++count[(position >> digit.shift) & static_cast<uint64_t>(bins - 1)];
      });
    });
  });
}

void choose_bins(Context& ctx, const int32_t* histogram, int64_t rows, Digit digit, bool from_top, RadixRow* state) {
  const int64_t bins = digit.bins();
  ctx.parallel_for(rows, [&](int64_t row) {
    const int32_t* count = histogram + row * bins;
    RadixRow& s = state[row];
    uint32_t passed = 0;
    int64_t bin = 0;
    // With nothing wanted the first bin is chosen: the cut then lies beyond every value.
    for (int64_t i = 0; i < bins; ++i) {
      bin = from_top ? bins - 1 - i : i;
      if (passed + static_cast<uint32_t>(count[bin]) >= s.wanted) break;
      passed += static_cast<uint32_t>(count[bin]);
    }
    s.prefix = s.prefix << digit.bits | static_cast<uint32_t>(bin);
    s.wanted -= passed;
    s.sharing = static_cast<uint32_t>(count[bin]);
  });
}

void top_set_sums(Context& ctx, const SelectRows& input, const SelectCut* cuts, int64_t* sums) {
  ctx.parallel_for(input.rows, [&](int64_t row) {
    const SelectCut cut = cuts[row];
    int64_t sum = 0;
    for_key_chunks(input, row, [&](const uint32_t* keys, int64_t n, int64_t, int64_t global) {
      // Offsets fit 32 bits inside a chunk; ties below tie_end are a prefix of the chunk.
      const int64_t ties = std::clamp<int64_t>(static_cast<int64_t>(cut.tie_end) - global, 0, n);
      uint32_t taken = 0, offsets = 0;
      for (int64_t i = 0; i < n; ++i) {
        const bool in = keys[i] > cut.key || (keys[i] == cut.key && i < ties);
        taken += in ? 1u : 0u;
        offsets += in ? static_cast<uint32_t>(i) : 0u;
      }
      sum += static_cast<int64_t>(taken) * global + offsets;
    });
    sums[row] = sum;
  });
}

void top_set_rows(Context& ctx, const SelectRows& input, const SelectCut* cuts, Range tail, int64_t capacity,
                  int32_t* rows, int32_t* counts) {
  ctx.parallel_for(input.rows, [&](int64_t row) {
    const SelectCut cut = cuts[row];
    int64_t count = 0;
    auto add = [&](int64_t local) {
      RESTKV_CHECK(count < capacity, "row {} keeps more than {}", row, capacity);
      rows[row * capacity + count++] = static_cast<int32_t>(local);
    };
    for_key_chunks(input, row, [&](const uint32_t* keys, int64_t n, int64_t local, int64_t global) {
      for (int64_t i = 0; i < n; ++i)
        if (cut.takes(keys[i], global + i)) add(local + i);
    });
    for (int64_t i = tail.begin; i < tail.end; ++i) add(i);
    counts[row] = static_cast<int32_t>(count);
  });
}

}  // namespace restkv::cpu
