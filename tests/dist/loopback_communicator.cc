#include "tests/dist/loopback_communicator.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "dist/base/error.h"
#include "dist/comm/collective.h"

namespace restkv::testing {
namespace {

/// Why a rank ends that did nothing wrong itself.
class OtherRankFailed : public RuntimeFailure {
 public:
  using RuntimeFailure::RuntimeFailure;
};

// What all threads of a run share.
struct Run {
  std::mutex mutex;
  std::condition_variable changed;
  bool failed = false;
  double timeout_s = 0;
};

class CpuDevice final : public LoopbackDevice {
 public:
  void copy(void* to, const void* from, int64_t bytes) override { collective::copy_bytes(to, from, bytes); }
  void fold(void* into, const void* from, int64_t count, DType dtype, ReduceOp op) override {
    collective::fold(into, from, count, dtype, op);
  }
  void* allocate(int64_t bytes) override { return std::malloc(static_cast<size_t>(std::max<int64_t>(bytes, 1))); }
  void release(void* data) override { std::free(data); }
  std::shared_ptr<void> beside(const std::function<void()>& calls) override {
    calls();
    return nullptr;
  }
  void join(const void*) override {}
};

// A group of ranks. Between two meetings a rank writes its own place only; behind a meeting all places may be read.
struct Group {
  struct Place {
    std::string call;  // must be the same on all ranks
    const void* send = nullptr;
    int64_t count = 0;
    int destination = -1;
    int color = 0, key = 0;
    LoopbackDevice* device = nullptr;
    std::shared_ptr<Group> made;  // by split
  };

  Group(std::shared_ptr<Run> run_, int size, std::string name_)
      : run(std::move(run_)), places(static_cast<size_t>(size)), name(std::move(name_)) {}

  void meet() {
    std::unique_lock lock(run->mutex);
    const int64_t round = rounds;
    if (++arrived == static_cast<int>(places.size())) {
      arrived = 0;
      ++rounds;
      run->changed.notify_all();
    }
    const auto over = [&] { return rounds != round || run->failed; };
    if (!run->changed.wait_for(lock, std::chrono::duration<double>(run->timeout_s), over))
      throw RuntimeFailure(fmt::format("loopback group {}: {} of {} ranks came within {} s", name, arrived,
                                       places.size(), run->timeout_s));
    if (rounds == round) throw OtherRankFailed(fmt::format("loopback group {}: another rank failed", name));
  }

  std::shared_ptr<Run> run;
  std::vector<Place> places;
  std::string name;
  int arrived = 0;
  int64_t rounds = 0;
};

class LoopbackCommunicator final : public Communicator {
 public:
  LoopbackCommunicator(std::shared_ptr<Group> group, int rank, Context& ctx)
      : Communicator(rank, static_cast<int>(group->places.size()), group->name), group_(std::move(group)), ctx_(ctx) {
    if (ctx.device() == Device::gpu)
      device_ = make_loopback_gpu(ctx);
    else
      device_ = std::make_unique<CpuDevice>();
  }

  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) override {
    collective::check_all_reduce(count, dtype, op);
    const int64_t bytes = count * size_of(dtype);
    begin(fmt::format("all_reduce of {} {} ({})", count, restkv::name_of(dtype), collective::name_of(op)), data);
    void* scratch = device_->allocate(bytes);
    device_->copy(scratch, place(0).send, bytes);
    for (int r = 1; r < size(); ++r) device_->fold(scratch, place(r).send, count, dtype, op);
    end();
    device_->copy(data, scratch, bytes);
    device_->release(scratch);
    Communicator::count(collective::sent_by_all_reduce(size(), bytes));
  }

  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override {
    RESTKV_CHECK(count >= 0, "all_gather of {} elements", count);
    const int64_t bytes = count * size_of(dtype);
    begin(fmt::format("all_gather of {} {}", count, restkv::name_of(dtype)), send);
    for (int r = 0; r < size(); ++r) device_->copy(static_cast<char*>(recv) + r * bytes, place(r).send, bytes);
    end();
    Communicator::count(collective::sent_by_all_gather(size(), bytes));
  }

  void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                    std::span<const int64_t> displacements, DType dtype) override {
    collective::check_all_gather_v(size(), counts, displacements);
    std::string call = fmt::format("all_gather_v of {}", restkv::name_of(dtype));
    for (int r = 0; r < size(); ++r) call += fmt::format(" {} at {}", counts[r], displacements[r]);
    begin(call, send);
    for (int r = 0; r < size(); ++r)
      device_->copy(static_cast<char*>(recv) + displacements[r] * size_of(dtype), place(r).send,
                    counts[r] * size_of(dtype));
    end();
    Communicator::count(collective::sent_by_all_gather(size(), counts[rank()] * size_of(dtype)));
  }

  void broadcast(void* data, int64_t count, DType dtype, int root) override {
    collective::check_broadcast(size(), count, root);
    const int64_t bytes = count * size_of(dtype);
    begin(fmt::format("broadcast of {} {} from {}", count, restkv::name_of(dtype), root), data);
    if (rank() != root) device_->copy(data, place(root).send, bytes);
    end();
    Communicator::count(collective::sent_by_broadcast(size(), bytes, root == rank()));
  }

  void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                 DType dtype) override {
    collective::check_send_recv(rank(), size(), send_count, destination, recv_count, source);
    own().destination = destination;
    own().count = send_count;
    begin(fmt::format("send_recv of {}", restkv::name_of(dtype)), send);
    if (source >= 0) {
      const Group::Place& from = place(source);
      if (from.destination != rank() || from.count != recv_count)
        fail_runtime("loopback group {}: rank {} receives {} from rank {}, which sends {} to rank {}", name(), rank(),
                     recv_count, source, from.count, from.destination);
      device_->copy(recv, from.send, recv_count * size_of(dtype));
    }
    end();
    Communicator::count(destination >= 0 && destination != rank() ? send_count * size_of(dtype) : 0);
  }

  void barrier() override {
    begin("barrier", nullptr);
    end();
    Communicator::count(0);
  }

  std::shared_ptr<void> beside(const std::function<void()>& calls) override { return device_->beside(calls); }
  void join(const void* ticket) override { device_->join(ticket); }

  std::unique_ptr<Communicator> split(int color, int key, std::string name) override {
    RESTKV_CHECK(color >= 0, "split of group {} with color {}", this->name(), color);
    own().color = color;
    own().key = key;
    begin("split", nullptr);
    std::vector<int> members;
    for (int r = 0; r < size(); ++r)
      if (place(r).color == color) members.push_back(r);
    std::stable_sort(members.begin(), members.end(), [&](int a, int b) { return place(a).key < place(b).key; });
    if (members[0] == rank()) own().made = std::make_shared<Group>(group_->run, members.size(), name);
    end();
    std::shared_ptr<Group> made = place(members[0]).made;
    group_->meet();
    own().made.reset();
    const auto at = std::find(members.begin(), members.end(), rank()) - members.begin();
    return std::make_unique<LoopbackCommunicator>(std::move(made), static_cast<int>(at), ctx_);
  }

 private:
  Group::Place& own() { return group_->places[static_cast<size_t>(rank())]; }
  const Group::Place& place(int r) const { return group_->places[static_cast<size_t>(r)]; }

  // All ranks have made the same call, and what they send may be read.
  void begin(std::string call, const void* send) {
    own().call = std::move(call);
    own().send = send;
    own().device = device_.get();
    device_->record(LoopbackDevice::ready);
    group_->meet();
    for (int r = 1; r < size(); ++r)
      if (place(r).call != place(0).call)
        fail_runtime("loopback group {}: rank 0 calls {}, rank {} calls {}", name(), place(0).call, r, place(r).call);
    for (int r = 0; r < size(); ++r)
      if (r != rank()) device_->wait(*place(r).device, LoopbackDevice::ready);
  }
  // All ranks have read, and what they sent may change.
  void end() {
    device_->record(LoopbackDevice::done);
    group_->meet();
    for (int r = 0; r < size(); ++r)
      if (r != rank()) device_->wait(*place(r).device, LoopbackDevice::done);
    // Places are written anew only when all are through here.
    group_->meet();
  }

  std::shared_ptr<Group> group_;
  Context& ctx_;
  std::unique_ptr<LoopbackDevice> device_;
};

}  // namespace

void run_loopback(int ranks, Device device, const std::function<void(LoopbackRank&)>& body, double timeout_s) {
  RESTKV_CHECK(ranks >= 1, "{} ranks", ranks);
  auto run = std::make_shared<Run>();
  run->timeout_s = timeout_s;
  auto world = std::make_shared<Group>(run, ranks, "world"), control = std::make_shared<Group>(run, ranks, "control");
  std::exception_ptr first;
  const auto failed = [&](bool of_its_own) {
    std::lock_guard lock(run->mutex);
    if (of_its_own && !first) first = std::current_exception();
    run->failed = true;
    run->changed.notify_all();
  };
  const auto work = [&](int r) {
    try {
      Context ctx(Context::Options{device, 1}), host(Context::Options{Device::cpu, 1});
      LoopbackRank rank{ctx, std::make_unique<LoopbackCommunicator>(world, r, ctx),
                        std::make_unique<LoopbackCommunicator>(control, r, host)};
      body(rank);
      ctx.synchronize();
      control->meet();  // nobody's memory goes while another still works with it
    } catch (const OtherRankFailed&) {
      failed(false);
    } catch (...) {
      failed(true);
    }
  };
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) threads.emplace_back(work, r);
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

ProcessGrid loopback_grid(LoopbackRank& rank, int sequence, int tensor) {
  const int me = rank.world->rank();
  return ProcessGrid(rank.world->split(0, me, "world"), sequence, tensor, rank.control->split(0, me, "control"));
}

}  // namespace restkv::testing
