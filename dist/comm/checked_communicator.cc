#include "dist/comm/checked_communicator.h"

#include <cstring>
#include <utility>
#include <vector>

#include "dist/base/error.h"
#include "dist/comm/collective.h"

namespace restkv {
namespace {

enum class Call : int64_t { all_reduce, all_gather, all_gather_v, broadcast, barrier, split };

std::string_view name_of_call(Call call) {
  switch (call) {
    case Call::all_reduce: return "all_reduce";
    case Call::all_gather: return "all_gather";
    case Call::all_gather_v: return "all_gather_v";
    case Call::broadcast: return "broadcast";
    case Call::barrier: return "barrier";
    case Call::split: return "split";
  }
  return "?";
}

// What must be equal on all ranks. Exchanged as int64s, so that it has no padding.
struct Signature {
  int64_t number = 0;  // of the call in this group
  Call call = Call::barrier;
  int64_t count = 0;
  int64_t dtype = 0;
  int64_t detail = 0;  // operation, root, or a hash of the placement
  bool operator==(const Signature&) const = default;

  std::string describe() const {
    std::string text = fmt::format("{} of {} {}", name_of_call(call), count, name_of(static_cast<DType>(dtype)));
    if (call == Call::all_reduce) text += fmt::format(" ({})", collective::name_of(static_cast<ReduceOp>(detail)));
    if (call == Call::broadcast) text += fmt::format(" from rank {}", detail);
    if (call == Call::all_gather_v) text += fmt::format(" (placement {:x})", static_cast<uint64_t>(detail));
    return text;
  }
};
constexpr int64_t kSignatureWords = sizeof(Signature) / sizeof(int64_t);

int64_t hash_of(std::span<const int64_t> a, std::span<const int64_t> b) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a over words
  for (auto values : {a, b})
    for (int64_t v : values) hash = (hash ^ static_cast<uint64_t>(v)) * 0x100000001b3u;
  return static_cast<int64_t>(hash);
}

class CheckedCommunicator final : public Communicator {
 public:
  CheckedCommunicator(std::unique_ptr<Communicator> inner, std::unique_ptr<Communicator> host)
      : Communicator(inner->rank(), inner->size(), inner->name()),
        inner_(std::move(inner)),
        host_(std::move(host)),
        all_(size()) {
    RESTKV_CHECK(host_ == nullptr || (host_->rank() == rank() && host_->size() == size()),
                 "rank {} of {} of the host group is rank {} of {} of group {}", host_->rank(), host_->size(), rank(),
                 size(), name());
  }

  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) override {
    collective::check_all_reduce(count, dtype, op);
    compare(Call::all_reduce, count, dtype, static_cast<int64_t>(op));
    forward([&] { inner_->all_reduce(data, count, dtype, op); });
  }
  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override {
    RESTKV_CHECK(count >= 0, "all_gather of {} elements", count);
    compare(Call::all_gather, count, dtype, 0);
    forward([&] { inner_->all_gather(send, recv, count, dtype); });
  }
  void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                    std::span<const int64_t> displacements, DType dtype) override {
    collective::check_all_gather_v(size(), counts, displacements);
    int64_t total = 0;
    for (int64_t n : counts) total += n;
    compare(Call::all_gather_v, total, dtype, hash_of(counts, displacements));
    forward([&] { inner_->all_gather_v(send, recv, counts, displacements, dtype); });
  }
  void broadcast(void* data, int64_t count, DType dtype, int root) override {
    collective::check_broadcast(size(), count, root);
    compare(Call::broadcast, count, dtype, root);
    forward([&] { inner_->broadcast(data, count, dtype, root); });
  }
  void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                 DType dtype) override {
    forward([&] { inner_->send_recv(send, send_count, destination, recv, recv_count, source, dtype); });
  }
  void barrier() override {
    compare(Call::barrier, 0, DType::u8, 0);
    forward([&] { inner_->barrier(); });
  }
  std::unique_ptr<Communicator> split(int color, int key, std::string name) override {
    RESTKV_CHECK(color >= 0, "split of group {} with color {}", this->name(), color);
    compare(Call::split, 0, DType::u8, 0);
    auto host = host_ != nullptr ? host_->split(color, key, name) : nullptr;
    return make_checked_communicator(inner_->split(color, key, std::move(name)), std::move(host));
  }
  std::shared_ptr<void> beside(const std::function<void()>& calls) override { return inner_->beside(calls); }
  std::shared_ptr<void> beside_first(const std::function<void()>& calls) override {
    return inner_->beside_first(calls);
  }
  void join(const void* ticket) override { inner_->join(ticket); }

 private:
  void compare(Call call, int64_t count, DType dtype, int64_t detail) {
    Signature own{calls_++, call, count, static_cast<int64_t>(dtype), detail};
    Communicator& host = host_ != nullptr ? *host_ : *inner_;
    host.all_gather(&own, all_.data(), kSignatureWords, DType::i64);
    // Every rank finds the same first difference, so all of them tell the same.
    for (int r = 1; r < size(); ++r)
      if (all_[r] != all_[0])
        fail_runtime("call {} of group {} differs: rank 0 makes {}, rank {} makes {}", all_[0].number, name(),
                     all_[0].describe(), r, all_[r].describe());
  }

  template <class F>
  void forward(const F& call) {
    int64_t before = inner_->stats().bytes_sent;
    call();
    Communicator::count(inner_->stats().bytes_sent - before);
  }

  std::unique_ptr<Communicator> inner_;
  std::unique_ptr<Communicator> host_;  // null: inner_
  std::vector<Signature> all_;
  int64_t calls_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_checked_communicator(std::unique_ptr<Communicator> inner,
                                                        std::unique_ptr<Communicator> host) {
  return std::make_unique<CheckedCommunicator>(std::move(inner), std::move(host));
}

}  // namespace restkv
