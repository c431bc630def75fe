#include <stdlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "dist/comm/collective.h"
#include "dist/comm/nccl_communicator.h"
#include "dist/comm/nccl_rank_gpu.h"

namespace restkv {
namespace {

using detail::NcclRank;

ncclDataType_t reduced_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return ncclFloat32;
    case DType::f64: return ncclFloat64;
    case DType::i32: return ncclInt32;
    case DType::i64: return ncclInt64;
    case DType::u32: return ncclUint32;
    case DType::u64: return ncclUint64;
    case DType::bf16: return ncclBfloat16;
    default: fail_runtime("NCCL reduces no {}", name_of(dtype));
  }
}

ncclRedOp_t operation_of(ReduceOp op) {
  return op == ReduceOp::sum ? ncclSum : op == ReduceOp::max ? ncclMax : ncclMin;
}

template <class Key>
constexpr Key kAllButSign = std::numeric_limits<Key>::max();

// Integers in the order of the floats, NaN beyond all of them on the side that wins: NCCL's own max and min of floats
// lose a NaN. The way back is the same map. -0 comes before +0.
template <class Key, class Float>
__global__ void to_keys(Key* data, int64_t count, Key nan) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    Key bits = data[i];
    Float value;
    memcpy(&value, &bits, sizeof(value));
    data[i] = value != value ? nan : bits < 0 ? bits ^ kAllButSign<Key> : bits;
  }
}

template <class Key>
__global__ void from_keys(Key* data, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    Key key = data[i];
    data[i] = key < 0 ? key ^ kAllButSign<Key> : key;
  }
}

// Longer than it takes another stream to see an event and NCCL's kernel to get its multiprocessors.
constexpr uint64_t kHeadStartNs = 20000;

__global__ void pause_kernel(uint64_t ns) {
  uint64_t begin, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    __nanosleep(500);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < ns);
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclRank> own, std::shared_ptr<ncclComm> comm, int rank, int size, std::string name)
      : Communicator(rank, size, std::move(name)), own_(std::move(own)), comm_(std::move(comm)) {
    RESTKV_CHECK((comm_ == nullptr) == (size == 1), "a group of {} ranks {} NCCL", size, comm_ ? "with" : "without");
    if (comm_ != nullptr) word_ = own_->ctx.zeros(DType::i32, {1});
  }

  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) override {
    collective::check_all_reduce(count, dtype, op);
    const int64_t bytes = count * size_of(dtype);
    if (comm_ != nullptr && count > 0) {
      NcclRank::Call call = begin("all_reduce", bytes);
      if (op != ReduceOp::sum && dtype == DType::f32)
        reduce_as_keys<int32_t, float>(data, count, DType::i32, op);
      else if (op != ReduceOp::sum && dtype == DType::f64)
        reduce_as_keys<int64_t, double>(data, count, DType::i64, op);
      else
        reduce(data, count, dtype, op);
      call.enqueued();
    }
    Communicator::count(collective::sent_by_all_reduce(size(), bytes));
  }

  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override {
    RESTKV_CHECK(count >= 0, "all_gather of {} elements", count);
    const int64_t bytes = count * size_of(dtype);
    if (comm_ == nullptr) {
      copy(recv, send, bytes);
    } else if (count > 0) {
      NcclRank::Call call = begin("all_gather", bytes);
      RESTKV_NCCL_CHECK(ncclAllGather(send, recv, static_cast<size_t>(bytes), ncclUint8, comm_.get(), stream()));
      call.enqueued();
    }
    Communicator::count(collective::sent_by_all_gather(size(), bytes));
  }

  void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                    std::span<const int64_t> displacements, DType dtype) override {
    collective::check_all_gather_v(size(), counts, displacements);
    const int64_t element = size_of(dtype), bytes = counts[rank()] * element;
    bool nothing = true, regular = true;
    for (int r = 0; r < size(); ++r) {
      nothing = nothing && counts[r] == 0;
      regular = regular && counts[r] == counts[0] && displacements[r] == displacements[0] + r * counts[0];
    }
    if (comm_ == nullptr) {
      copy(at(recv, displacements[0] * element), send, bytes);
    } else if (!nothing) {
      NcclRank::Call call = begin("all_gather_v", bytes);
      if (regular)
        RESTKV_NCCL_CHECK(ncclAllGather(send, at(recv, displacements[0] * element), static_cast<size_t>(bytes),
                                        ncclUint8, comm_.get(), stream()));
      else if (size() <= own_->options.direct_ranks)
        gather_directly(send, recv, counts, displacements, element);
      else
        gather_by_broadcasts(send, recv, counts, displacements, element);
      call.enqueued();
    }
    Communicator::count(collective::sent_by_all_gather(size(), bytes));
  }

  void broadcast(void* data, int64_t count, DType dtype, int root) override {
    collective::check_broadcast(size(), count, root);
    const int64_t bytes = count * size_of(dtype);
    if (comm_ != nullptr && count > 0) {
      NcclRank::Call call = begin("broadcast", bytes);
      RESTKV_NCCL_CHECK(ncclBroadcast(data, data, static_cast<size_t>(bytes), ncclUint8, root, comm_.get(), stream()));
      call.enqueued();
    }
    Communicator::count(collective::sent_by_broadcast(size(), bytes, root == rank()));
  }

  void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                 DType dtype) override {
    collective::check_send_recv(rank(), size(), send_count, destination, recv_count, source);
    const int64_t sent = send_count * size_of(dtype), received = recv_count * size_of(dtype);
    if (destination == rank()) {
      copy(recv, send, sent);
      Communicator::count(0);
      return;
    }
    const bool sends = destination >= 0 && sent > 0, receives = source >= 0 && received > 0;
    if (sends || receives) {
      NcclRank::Call call = begin("send_recv", sends ? sent : received);
      RESTKV_NCCL_CHECK(ncclGroupStart());
      if (sends) RESTKV_NCCL_CHECK(ncclSend(send, sent, ncclUint8, destination, comm_.get(), stream()));
      if (receives) RESTKV_NCCL_CHECK(ncclRecv(recv, received, ncclUint8, source, comm_.get(), stream()));
      RESTKV_NCCL_CHECK(ncclGroupEnd());
      call.enqueued();
    }
    Communicator::count(destination >= 0 ? sent : 0);
  }

  // The host waits, except while a graph is captured: the device alone does then.
  void barrier() override {
    if (comm_ != nullptr) {
      NcclRank::Call call = begin("barrier", 0);
      reduce(word_.raw(), 1, DType::i32, ReduceOp::max);
      call.enqueued();
      if (!detail::is_capturing(stream())) RESTKV_CUDA_CHECK(cudaStreamSynchronize(stream()));
    }
    Communicator::count(0);
  }

  std::shared_ptr<void> beside(const std::function<void()>& calls) override {
    RESTKV_CHECK(!beside_, "beside() within beside() of group {}", name());
    order(own_->stream(false), own_->stream(true));
    beside_ = true;
    try {
      calls();
    } catch (...) {
      beside_ = false;
      throw;
    }
    beside_ = false;
    return make_ticket();
  }

  std::shared_ptr<void> beside_first(const std::function<void()>& calls) override {
    RESTKV_CHECK(!beside_, "beside_first() within beside() of group {}", name());
    if (comm_ == nullptr) return beside(calls);
    order(own_->stream(false), own_->stream(true));
    beside_ = together_ = true;
    const int64_t bytes_before = stats().bytes_sent;
    RESTKV_NCCL_CHECK(ncclGroupStart());
    try {
      calls();
    } catch (...) {
      beside_ = together_ = false;
      ncclGroupEnd();
      throw;
    }
    // The calls are launched at the end of the group: what watched each of them saw nothing yet.
    NcclRank::Call call = begin("exchange", stats().bytes_sent - bytes_before);
    RESTKV_NCCL_CHECK(ncclGroupEnd());
    call.enqueued();
    beside_ = together_ = false;
    pause_kernel<<<1, 1, 0, own_->stream(false)>>>(kHeadStartNs);
    RESTKV_KERNEL_CHECK();
    return make_ticket();
  }

  void join(const void* ticket) override {
    if (ticket == nullptr) return;
    auto* event = static_cast<cudaEvent_t>(const_cast<void*>(ticket));
    RESTKV_CUDA_CHECK(cudaStreamWaitEvent(own_->stream(false), event, 0));
  }

  std::unique_ptr<Communicator> split(int color, int key, std::string name) override;

  ncclComm_t handle() const { return comm_.get(); }

  /// One small call of every kind and message between every pair that exchanges directly: connections are made and
  /// kernels loaded here, not within a captured or a timed call.
  void warm_up();

 private:
  std::shared_ptr<void> make_ticket() const {
    std::shared_ptr<void> ticket = make_event();
    RESTKV_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(ticket.get()), own_->stream(true)));
    return ticket;
  }
  cudaStream_t stream() const { return own_->stream(beside_); }
  NcclRank::Call begin(std::string_view operation, int64_t bytes) {
    return NcclRank::Call(*own_, beside_, operation, name(), bytes, stats().calls);
  }
  static char* at(void* base, int64_t bytes) { return static_cast<char*>(base) + bytes; }

  void copy(void* to, const void* from, int64_t bytes) const {
    if (bytes > 0 && to != from)
      RESTKV_CUDA_CHECK(
          cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, own_->stream(beside_)));
  }

  void reduce(void* data, int64_t count, DType dtype, ReduceOp op) {
    RESTKV_NCCL_CHECK(ncclAllReduce(data, data, static_cast<size_t>(count), reduced_type(dtype), operation_of(op),
                                    comm_.get(), stream()));
  }

  template <class Key, class Float>
  void reduce_as_keys(void* data, int64_t count, DType key_type, ReduceOp op) {
    static_assert(sizeof(Key) == sizeof(Float));
    RESTKV_CHECK(!together_, "a maximum of floats within beside_first() of group {}", name());
    constexpr int kThreads = 256;
    const int blocks = static_cast<int>(std::min<int64_t>((count + kThreads - 1) / kThreads, 1024));
    auto* keys = static_cast<Key*>(data);
    const Key nan = op == ReduceOp::max ? std::numeric_limits<Key>::max() : std::numeric_limits<Key>::min();
    to_keys<Key, Float><<<blocks, kThreads, 0, stream()>>>(keys, count, nan);
    RESTKV_KERNEL_CHECK();
    reduce(data, count, key_type, op);
    from_keys<Key><<<blocks, kThreads, 0, stream()>>>(keys, count);
    RESTKV_KERNEL_CHECK();
  }

  void gather_directly(const void* send, void* recv, std::span<const int64_t> counts,
                       std::span<const int64_t> displacements, int64_t element) {
    const int64_t own = counts[rank()] * element;
    copy(at(recv, displacements[rank()] * element), send, own);
    RESTKV_NCCL_CHECK(ncclGroupStart());
    for (int step = 1; step < size(); ++step) {
      const int to = (rank() + step) % size(), from = (rank() - step + size()) % size();
      if (own > 0) RESTKV_NCCL_CHECK(ncclSend(send, own, ncclUint8, to, comm_.get(), stream()));
      if (counts[from] > 0)
        RESTKV_NCCL_CHECK(ncclRecv(at(recv, displacements[from] * element), counts[from] * element, ncclUint8, from,
                                   comm_.get(), stream()));
    }
    RESTKV_NCCL_CHECK(ncclGroupEnd());
  }

  void gather_by_broadcasts(const void* send, void* recv, std::span<const int64_t> counts,
                            std::span<const int64_t> displacements, int64_t element) {
    RESTKV_NCCL_CHECK(ncclGroupStart());
    for (int r = 0; r < size(); ++r) {
      char* place = at(recv, displacements[r] * element);
      if (counts[r] > 0)
        RESTKV_NCCL_CHECK(
            ncclBroadcast(r == rank() ? send : place, place, counts[r] * element, ncclUint8, r, comm_.get(), stream()));
    }
    RESTKV_NCCL_CHECK(ncclGroupEnd());
  }

  // What is enqueued to `later` after this begins when all that `before` holds has ended.
  static void order(cudaStream_t before, cudaStream_t later) {
    std::shared_ptr<void> event = make_event();
    RESTKV_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(event.get()), before));
    RESTKV_CUDA_CHECK(cudaStreamWaitEvent(later, static_cast<cudaEvent_t>(event.get()), 0));
  }

  static std::shared_ptr<void> make_event() {
    cudaEvent_t event = nullptr;
    RESTKV_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return {event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); }};
  }

  // Color and key of every rank, in rank order.
  std::vector<std::array<int64_t, 2>> colors_and_keys(int color, int key) {
    const std::array<int64_t, 2> mine = {color, key};
    Tensor send = own_->ctx.to_device(mine.data(), DType::i64, {2});
    Tensor recv = own_->ctx.empty(DType::i64, {size(), 2});
    RESTKV_NCCL_CHECK(ncclAllGather(send.raw(), recv.raw(), sizeof(mine), ncclUint8, comm_.get(), own_->stream(false)));
    std::vector<std::array<int64_t, 2>> all(size());
    own_->ctx.to_host(recv.raw(), all.data(), recv.bytes());
    return all;
  }

  std::shared_ptr<NcclRank> own_;  // before comm_ and word_, which need it at their end
  std::shared_ptr<ncclComm> comm_;
  Tensor word_;
  bool beside_ = false;
  bool together_ = false;  // between the beginning and the end of an NCCL group
};

void NcclCommunicator::warm_up() {
  constexpr int64_t kBytes = int64_t{1} << 20;
  NcclRank::Call call = begin("warm-up", kBytes);
  Tensor data = own_->ctx.zeros(DType::u8, {kBytes * size()});
  for (int64_t count : {int64_t{1}, kBytes / 4}) {
    reduce(data.raw(), count, DType::f32, ReduceOp::sum);
    RESTKV_NCCL_CHECK(
        ncclAllGather(at(data.raw(), rank() * count), data.raw(), count, ncclUint8, comm_.get(), stream()));
    RESTKV_NCCL_CHECK(ncclBroadcast(data.raw(), data.raw(), count, ncclUint8, 0, comm_.get(), stream()));
  }
  const int last = size() <= own_->options.direct_ranks ? size() - 1 : 1;
  RESTKV_NCCL_CHECK(ncclGroupStart());
  for (int step = 1; step <= last; ++step) {
    const int up = (rank() + step) % size(), down = (rank() - step + size()) % size();
    RESTKV_NCCL_CHECK(ncclSend(data.raw(), 16, ncclUint8, up, comm_.get(), stream()));
    RESTKV_NCCL_CHECK(ncclRecv(at(data.raw(), 16 * step), 16, ncclUint8, down, comm_.get(), stream()));
  }
  RESTKV_NCCL_CHECK(ncclGroupEnd());
  own_->wait_for_all();
}

// ncclCommSplit and not a new id: it needs no group of hosts that fits the new one, and starts over the connections
// that exist. The ranks first tell each other what they ask for, because most splits of a grid need no NCCL at all:
// groups of one rank, and groups that are the whole one again, which share its communicator (each costs hundreds of
// MiB of device memory, and calls of several at once have to be kept in order).
std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key, std::string name) {
  RESTKV_CHECK(color >= 0, "split of group {} with color {}", this->name(), color);
  if (comm_ == nullptr) return std::make_unique<NcclCommunicator>(own_, nullptr, 0, 1, std::move(name));
  NcclRank::Call call(*own_, false, "split", this->name(), 0, stats().calls);
  const auto all = colors_and_keys(color, key);
  std::vector<int> members;
  bool any_group = false, same = true;
  for (int r = 0; r < size(); ++r) {
    if (all[r][0] == color) members.push_back(r);
    for (int s = 0; s < r; ++s) any_group = any_group || all[s][0] == all[r][0];
    same = same && all[r][0] == all[0][0] && (r == 0 || all[r - 1][1] <= all[r][1]);
  }
  std::stable_sort(members.begin(), members.end(), [&](int a, int b) { return all[a][1] < all[b][1]; });
  const int rank_there = static_cast<int>(std::find(members.begin(), members.end(), rank()) - members.begin());
  const int size_there = static_cast<int>(members.size());
  std::shared_ptr<ncclComm> child;
  if (same) {
    child = comm_;
  } else if (any_group) {
    own_->wait_for_all();  // no call of the parent may be open
    ncclConfig_t config = own_->config();
    ncclComm_t made = nullptr;
    RESTKV_NCCL_CHECK(
        ncclCommSplit(comm_.get(), size_there > 1 ? color : NCCL_SPLIT_NOCOLOR, rank_there, &made, &config));
    if (made != nullptr) child = NcclRank::adopt(own_, made, name);
  }
  auto group = std::make_unique<NcclCommunicator>(own_, child, rank_there, size_there, std::move(name));
  if (child != nullptr && child != comm_) group->warm_up();
  return group;
}

// Where the user has not chosen otherwise; NCCL reads them when it starts.
void set_nccl_defaults() {
  // Collectives of several groups on two streams: the device starts them in the order of the host's calls, which is the
  // same on all ranks. Without it two ranks can hold each other's next one up.
  ::setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
  // All connections at the start: none is made within the first call of a kind, which may be timed or captured.
  ::setenv("NCCL_RUNTIME_CONNECT", "0", 0);
  // Buffers of captured calls come from the stream-ordered pool, which other processes cannot map.
  ::setenv("NCCL_GRAPH_REGISTER", "0", 0);
}

}  // namespace

ncclComm_t nccl_comm_of(const Communicator& group) {
  const auto* own = dynamic_cast<const NcclCommunicator*>(&group);
  RESTKV_CHECK(own != nullptr, "group {} is no NCCL group", group.name());
  return own->handle();
}

std::unique_ptr<Communicator> make_nccl_communicator(Context& ctx, Communicator& control, const NcclOptions& options) {
  RESTKV_CHECK(ctx.device() == Device::gpu, "an NCCL group on a {} context", name_of(ctx.device()));
  set_nccl_defaults();
  const int size = control.size();
  NcclOptions own_options = options;
  if (size == 1) own_options.timeout_s = 0.0;  // nobody to wait for
  auto own = std::make_shared<NcclRank>(ctx, control.rank(), own_options);
  if (size == 1) return std::make_unique<NcclCommunicator>(own, nullptr, 0, 1, "world");
  ncclUniqueId id{};
  if (control.rank() == 0) RESTKV_NCCL_CHECK(ncclGetUniqueId(&id));
  control.broadcast(id.internal, sizeof(id.internal), DType::u8, 0);
  ncclComm_t comm = nullptr;
  {
    NcclRank::Call call(*own, false, "start of NCCL", "world", 0, 0);
    ncclConfig_t config = own->config();
    RESTKV_NCCL_CHECK(ncclCommInitRankConfig(&comm, size, id, control.rank(), &config));
  }
  auto world =
      std::make_unique<NcclCommunicator>(own, NcclRank::adopt(own, comm, "world"), control.rank(), size, "world");
  world->warm_up();
  return world;
}

}  // namespace restkv
