// Where a rank's positions lie, for kernels: at most two runs, passed by value, and their pieces for one block each.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "dist/base/error.h"
#include "kvcache/local_shard.h"

namespace restkv::gpu {

/// Index i in [0, total()) goes through the runs in order.
struct Runs {
  Segment run[2];

  explicit Runs(const std::vector<Segment>& segments) {
    RESTKV_CHECK(segments.size() <= 2, "{} runs of positions; kernels take two", segments.size());
    for (size_t i = 0; i < segments.size(); ++i) run[i] = segments[i];
  }
  __host__ __device__ int64_t total() const { return run[0].count + run[1].count; }
  __device__ int64_t local(int64_t i) const {
    return i < run[0].count ? run[0].local + i : run[1].local + (i - run[0].count);
  }
  __device__ int64_t global(int64_t i) const {
    return i < run[0].count ? run[0].global + i : run[1].global + (i - run[0].count);
  }
};

/// A part of one run.
struct Piece {
  int64_t local, global;
  int count;
};

/// The runs cut into pieces of `size` positions (the last of a run may be shorter).
struct Pieces {
  Runs runs;
  int size;
  int first_run;   ///< pieces of the first run
  int second_run;  ///< and of the second

  Pieces(const Runs& runs_, int size_)
      : runs(runs_),
        size(size_),
        first_run(static_cast<int>((runs.run[0].count + size - 1) / size)),
        second_run(static_cast<int>((runs.run[1].count + size - 1) / size)) {}
  __host__ __device__ int count() const { return first_run + second_run; }
  __device__ Piece at(int index) const {
    // Field by field: an index into kernel parameters would copy them to local memory.
    const bool lower = index < first_run;
    const int64_t begin = static_cast<int64_t>(lower ? index : index - first_run) * size;
    const int64_t left = (lower ? runs.run[0].count : runs.run[1].count) - begin;
    return {(lower ? runs.run[0].local : runs.run[1].local) + begin,
            (lower ? runs.run[0].global : runs.run[1].global) + begin, static_cast<int>(left < size ? left : size)};
  }
};

}  // namespace restkv::gpu
