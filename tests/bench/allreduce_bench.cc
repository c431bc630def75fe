// The sum over GPU ranks behind a decode step's products: ours (peer memory, with residual and preparation of the next
// norm in the same kernel) beside NCCL's all-reduce with and without the kernel that does the rest. Microseconds per
// exchange, launched one by one and in graphs of 64, of the slowest rank. One JSON object per line, from rank 0.
// Usage: mpirun -np N allreduce_bench [hidden]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "dist/comm/mpi_runtime.h"
#include "dist/comm/nccl_communicator.h"
#include "model/ops/decode_exchange.h"

namespace restkv {
namespace {

constexpr int kPerGraph = 64, kWarm = 10, kRuns = 50;

class Bench {
 public:
  Bench(Context& ctx, Communicator& control, Communicator& nccl, int64_t hidden)
      : ctx_(ctx), control_(control), nccl_(nccl), hidden_(hidden) {
    std::vector<int> group;
    for (int r = 0; r < control.size(); ++r) group.push_back(r);
    std::string reason;
    PeerMemory::Options options;
    options.words = stream_sum_words(kMaxDecodeBatch, hidden);
    peers_ = PeerMemory::create(ctx, control, group, options, &reason);
    if (peers_ == nullptr && control.rank() == 0)
      printf("{\"peer_memory\": false, \"reason\": \"%s\"}\n", reason.c_str());
    stream_ = make_decode_stream(ctx, kMaxDecodeBatch, hidden);
    for (Tensor* t : {&stream_.x, &stream_.weighted}) ctx.fill_zero(t->raw(), t->bytes());
    terms_ = ctx.zeros(DType::f32, {kMaxDecodeBatch, hidden});
    norm_ = ctx.zeros(DType::f32, {hidden});
  }

  void measure(int64_t batch) {
    const DecodeStream stream = stream_.first(batch);
    const Tensor terms = terms_.rows(0, batch);
    auto ours = [&] { sum_into_stream(ctx_, peers_->view(), terms, norm_, stream); };
    auto reduce = [&] { nccl_.all_reduce(terms.raw(), terms.numel(), DType::f32, ReduceOp::sum); };
    auto reduce_and_add = [&] {
      reduce();
      add_to_stream(ctx_, terms, norm_, stream);
    };
    report("peer_memory_sum_residual_norm", terms.bytes(), peers_ != nullptr ? std::function<void()>(ours) : nullptr);
    report("nccl_all_reduce", terms.bytes(), reduce);
    report("nccl_all_reduce_residual_norm", terms.bytes(), reduce_and_add);
  }

 private:
  void report(const char* what, int64_t bytes, const std::function<void()>& exchange) {
    if (!exchange) return;
    const double eager = time([&] {
      for (int i = 0; i < kPerGraph; ++i) exchange();
    });
    const auto graph = ctx_.gpu()->capture([&] {
      for (int i = 0; i < kPerGraph; ++i) exchange();
    });
    const double captured = time([&] { ctx_.gpu()->launch(graph.get()); });
    if (peers_ != nullptr) peers_->check(what);
    if (control_.rank() == 0)
      printf("{\"what\": \"%s\", \"ranks\": %d, \"bytes\": %ld, \"eager_us\": %.2f, \"graph_us\": %.2f}\n", what,
             control_.size(), static_cast<long>(bytes), eager, captured);
    fflush(stdout);
  }

  // Microseconds of one of kPerGraph exchanges, the median run of the slowest rank.
  double time(const std::function<void()>& run) {
    for (int i = 0; i < kWarm; ++i) run();
    std::vector<double> seconds;
    for (int i = 0; i < kRuns; ++i) {
      ctx_.synchronize();
      control_.barrier();
      const auto from = ctx_.gpu()->mark();
      run();
      const auto to = ctx_.gpu()->mark();
      seconds.push_back(ctx_.gpu()->seconds_between(from.get(), to.get()));
    }
    std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
    double median = seconds[kRuns / 2];
    control_.all_reduce(&median, 1, DType::f64, ReduceOp::max);
    return median * 1e6 / kPerGraph;
  }

  Context& ctx_;
  Communicator& control_;
  Communicator& nccl_;
  int64_t hidden_;
  std::unique_ptr<PeerMemory> peers_;
  DecodeStream stream_;
  Tensor terms_, norm_;
};

int run(int argc, char** argv) {
  MpiRuntime mpi(&argc, &argv);
  Context::Options options{Device::gpu, 1};
  options.device_index = mpi.local_rank();
  Context ctx(options);
  auto control = mpi.world(300);
  NcclOptions nccl_options;
  nccl_options.timeout_s = 120.0;
  nccl_options.on_expired = [](const std::string&) { std::_Exit(1); };
  auto nccl = make_nccl_communicator(ctx, *control, nccl_options);
  const int64_t hidden = argc > 1 ? std::atoll(argv[1]) : 4096;
  Bench bench(ctx, *control, *nccl, hidden);
  for (int64_t batch : {1, 2, 4, 8, 16, 32, 64}) bench.measure(batch);
  return 0;
}

}  // namespace
}  // namespace restkv

int main(int argc, char** argv) {
  try {
    return restkv::run(argc, argv);
  } catch (const std::exception& e) {
    fprintf(stderr, "%s\n", e.what());
    std::_Exit(1);
  }
}
