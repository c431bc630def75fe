// Collectives of GPU ranks: microseconds per call, enqueued one by one and replayed from a graph, and what an
// all-gather costs beside products that use the whole device. mpirun -np N comm_bench [MAX_BLOCKS]:
// NcclOptions::max_blocks, 0 (the default) for NCCL's own choice.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "dist/base/error.h"
#include "dist/base/gemm.h"
#include "dist/comm/device_grid.h"

namespace restkv {
namespace {

using Body = std::function<void()>;

class Bench {
 public:
  Bench(MpiRuntime& mpi, int max_blocks) : ctx_({Device::gpu, 0, mpi.local_rank()}) {
    GridOptions options;
    options.sequence = mpi.size();
    options.timeout_s = 60.0;
    options.max_blocks = max_blocks;
    grid_ = make_device_grid(mpi.world(60.0), ctx_, options);
    print("{} ranks; {}; {}; {}; at most {} blocks (0: NCCL's choice)\n", mpi.size(), ctx_.gpu()->describe(),
          ctx_.gpu()->links(), ctx_.gpu()->versions(), max_blocks);
  }

  void latencies() {
    Communicator& world = grid_->world();
    const int n = world.size();
    constexpr int64_t kMost = int64_t{64} << 20;
    Tensor send = ctx_.zeros(DType::u8, {kMost}), recv = ctx_.zeros(DType::u8, {kMost * n});
    print("{:<28}{:>12}{:>12}{:>12}{:>12}\n", "call", "own bytes", "eager us", "graph us", "GB/s sent");
    auto row = [&](const char* name, int64_t bytes, int64_t sent, const Body& body) {
      const double eager = eager_seconds(body), graph = graph_seconds(body);
      print("{:<28}{:>12}{:>12.2f}{:>12.2f}{:>12.1f}\n", name, bytes, eager * 1e6, graph * 1e6,
            static_cast<double>(sent) / graph * 1e-9);
    };
    for (int64_t bytes : {4 << 10, 8 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20, 64 << 20})
      row("all_reduce bf16", bytes, 2 * (n - 1) * bytes / n,
          [&] { world.all_reduce(send.raw(), bytes / 2, DType::bf16, ReduceOp::sum); });
    for (int64_t bytes : {8 << 10, 64 << 10, 1 << 20})
      row("all_reduce f32", bytes, 2 * (n - 1) * bytes / n,
          [&] { world.all_reduce(send.raw(), bytes / 4, DType::f32, ReduceOp::sum); });
    for (int64_t bytes : {512, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20})
      row("all_gather", bytes, (n - 1) * bytes, [&] { world.all_gather(send.raw(), recv.raw(), bytes, DType::u8); });
    for (int64_t bytes : {4 << 10, 1 << 20, 64 << 20}) {
      // Equal counts, ranks in reverse order: not what an all-gather can do.
      std::vector<int64_t> counts(n, bytes), places(n);
      for (int r = 0; r < n; ++r) places[r] = (n - 1 - r) * bytes;
      row("all_gather_v, reverse order", bytes, (n - 1) * bytes,
          [&] { world.all_gather_v(send.raw(), recv.raw(), counts, places, DType::u8); });
    }
    const int to = (world.rank() + 1) % n, from = (world.rank() + n - 1) % n;
    for (int64_t bytes : {4 << 10, 1 << 20, 64 << 20})
      row("send_recv around the ring", bytes, bytes,
          [&] { world.send_recv(send.raw(), bytes, to, recv.raw(), bytes, from, DType::u8); });
    row("broadcast", 1 << 20, 1 << 20, [&] { world.broadcast(send.raw(), 1 << 20, DType::u8, 0); });
  }

  // A layer of prefill in small: products for the whole device, and the next layer's rows on their way.
  void overlap() {
    Communicator& world = grid_->world();
    constexpr int64_t n = 8192, bytes = int64_t{256} << 20;
    Tensor a = ctx_.zeros(DType::bf16, {n, n}), c = ctx_.zeros(DType::bf16, {n, n});
    Tensor send = ctx_.zeros(DType::u8, {bytes}), recv = ctx_.zeros(DType::u8, {bytes * world.size()});
    auto products = [&] {
      for (int i = 0; i < 8; ++i) gemm(ctx_, MatrixView(a), MatrixView(a), MatrixView(c));
    };
    auto gather = [&] { world.all_gather(send.raw(), recv.raw(), bytes, DType::u8); };
    const double alone = eager_seconds(products, 5), exchange = eager_seconds(gather, 5);
    const double one_after_other = eager_seconds([&] { gather(), products(); }, 5);
    const double beside = eager_seconds(
        [&] {
          auto ticket = world.beside(gather);
          products();
          world.join(ticket.get());
        },
        5);
    print(
        "products {:.3f} ms, all_gather of {} MiB {:.3f} ms, one after the other {:.3f} ms, beside {:.3f} ms: {:.0f}% "
        "of the exchange hidden\n",
        alone * 1e3, bytes >> 20, exchange * 1e3, one_after_other * 1e3, beside * 1e3,
        100.0 * std::clamp((alone + exchange - beside) / exchange, -1.0, 1.0));
  }

 private:
  template <class... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) const {
    if (grid_->is_root()) fmt::print(format, std::forward<Args>(args)...);
  }

  // Of the slowest rank, the best of three.
  double eager_seconds(const Body& body, int calls = 50) {
    return slowest([&] { repeat(body, calls); }, calls);
  }
  double graph_seconds(const Body& body) {
    constexpr int kCalls = 20, kLaunches = 5;
    auto graph = ctx_.gpu()->capture([&] { repeat(body, kCalls); });
    return slowest([&] { repeat([&] { ctx_.gpu()->launch(graph.get()); }, kLaunches); }, kCalls * kLaunches);
  }
  static void repeat(const Body& body, int times) {
    for (int i = 0; i < times; ++i) body();
  }
  double slowest(const Body& body, int calls) {
    double best = 1e30;
    for (int round = 0; round < 4; ++round) {  // the first one warms up
      grid_->control().barrier();
      auto begin = ctx_.gpu()->mark();
      body();
      auto end = ctx_.gpu()->mark();
      double seconds = ctx_.gpu()->seconds_between(begin.get(), end.get()) / calls;
      grid_->control().all_reduce(&seconds, 1, DType::f64, ReduceOp::max);
      if (round > 0) best = std::min(best, seconds);
    }
    return best;
  }

  Context ctx_;
  std::unique_ptr<ProcessGrid> grid_;
};

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  restkv::MpiRuntime mpi(&argc, &argv);
  try {
    restkv::Bench bench(mpi, argc > 1 ? std::atoi(argv[1]) : 0);
    bench.latencies();
    bench.overlap();
  } catch (const restkv::Error& e) {
    mpi.abort(e.what(), e.exit_code());
  }
}
