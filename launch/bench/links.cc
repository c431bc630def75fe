#include "launch/bench/links.h"

#include <algorithm>

#include "dist/base/stopwatch.h"

namespace restkv {
namespace {

/// Least seconds of one of `calls` calls in a row on the slowest rank; the first round does not count.
template <class Call>
double seconds_of(Context& ctx, const ProcessGrid& grid, int calls, const Call& call) {
  constexpr int kRounds = 4;
  double least = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    grid.control().barrier();
    ctx.synchronize();
    Stopwatch watch;
    for (int i = 0; i < calls; ++i) call();
    ctx.synchronize();
    double seconds = watch.seconds() / calls;
    grid.control().all_reduce(&seconds, 1, DType::f64, ReduceOp::max);
    if (round > 0) least = std::min(least, seconds);
  }
  return least;
}

}  // namespace

Links measure_links(Context& ctx, const ProcessGrid& grid) {
  Links links;
  if (grid.size() == 1) return links;
  const bool gpu = ctx.device() == Device::gpu;
  Communicator& world = grid.world();
  // What a decode step sums, what eviction sums, what a slice of a prefill sums (on GPUs).
  for (int64_t bytes : {int64_t{4} << 10, int64_t{64} << 10, int64_t{1} << 20, int64_t{16} << 20}) {
    if (!gpu && bytes > (1 << 20)) break;
    Tensor data = ctx.zeros(DType::f32, {bytes / 4});
    double seconds = seconds_of(ctx, grid, bytes > (1 << 20) || !gpu ? 4 : 32,
                                [&] { world.all_reduce(data.raw(), bytes / 4, DType::f32, ReduceOp::sum); });
    links.all_reduce.emplace_back(static_cast<double>(bytes), seconds);
  }
  const int64_t own = gpu ? int64_t{64} << 20 : int64_t{4} << 20;
  Tensor send = ctx.zeros(DType::u8, {own}), all = ctx.empty(DType::u8, {own * world.size()});
  double seconds = seconds_of(ctx, grid, 2, [&] { world.all_gather(send.raw(), all.raw(), own, DType::u8); });
  links.gather_bytes = static_cast<double>(own * (world.size() - 1)) / seconds;
  return links;
}

}  // namespace restkv
