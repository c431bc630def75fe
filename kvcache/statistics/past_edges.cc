#include "kvcache/statistics/past_edges.h"

#include <algorithm>
#include <vector>

#include "dist/base/error.h"
#include "kvcache/statistics/exchange.h"

namespace restkv {
namespace {

// A run of past positions, and which of its rank's it is.
struct PastRun {
  Range positions;
  int rank;
  int index;
};

// All runs, by position.
std::vector<PastRun> past_runs(const SequencePartition& partition, int64_t P) {
  std::vector<PastRun> runs;
  for (int rank = 0; rank < partition.ranks(); ++rank) {
    int index = 0;
    for (Range chunk : partition.chunks_of(rank)) {
      const Range past = intersect(chunk, {0, P});
      if (!past.empty()) runs.push_back({past, rank, index++});
    }
  }
  std::sort(runs.begin(), runs.end(),
            [](const PastRun& x, const PastRun& y) { return x.positions.begin < y.positions.begin; });
  return runs;
}

}  // namespace

bool edges_suffice(const SequencePartition& partition, int64_t P, int64_t reach) {
  if (reach < 1 || kEdgeStrips * reach > past_capacity(partition, P)) return false;
  const std::vector<PastRun> runs = past_runs(partition, P);
  for (size_t i = 0; i + 1 < runs.size(); ++i) {
    const Range& here = runs[i].positions;
    const Range& next = runs[i + 1].positions;
    if (next.size() < std::min(reach, P - here.end) || here.size() < std::min(reach, next.begin)) return false;
  }
  return true;
}

EdgeNeighbours edge_neighbours(const SequencePartition& partition, const LocalShard& shard) {
  const std::vector<PastRun> runs = past_runs(partition, shard.P);
  EdgeNeighbours result;
  for (size_t r = 0; r < shard.past.size(); ++r) {
    const int64_t begin = shard.past[r].global, end = begin + shard.past[r].count;
    for (const PastRun& run : runs) {
      if (run.positions.end == begin) result.before[r] = {run.rank, 2 * run.index + 1};
      if (run.positions.begin == end) result.behind[r] = {run.rank, 2 * run.index};
    }
  }
  return result;
}

void pack_edges(Context& ctx, const LocalShard& shard, const float* scores, int64_t rows, int64_t reach, float* edges) {
  RESTKV_CHECK(shard.past.size() * 2 <= kEdgeStrips, "{} runs of past positions", shard.past.size());
  if (ctx.device() == Device::gpu) return gpu::pack_edges(ctx, shard, scores, rows, reach, edges);
  std::fill_n(edges, rows * kEdgeStrips * reach, 0.0f);
  for (int64_t row = 0; row < rows; ++row)
    for (size_t r = 0; r < shard.past.size(); ++r) {
      const Segment& run = shard.past[r];
      const int64_t count = std::min(reach, run.count);
      const float* from = scores + row * shard.stride + run.local;
      float* first = edges + (row * kEdgeStrips + 2 * static_cast<int64_t>(r)) * reach;
      std::copy_n(from, count, first);
      std::copy_n(from + run.count - count, count, first + 2 * reach - count);
    }
}

}  // namespace restkv
