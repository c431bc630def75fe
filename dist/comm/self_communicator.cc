#include "dist/base/error.h"
#include "dist/comm/collective.h"
#include "dist/comm/communicator.h"

namespace restkv {
namespace {

class SelfCommunicator final : public Communicator {
 public:
  explicit SelfCommunicator(std::string name) : Communicator(0, 1, std::move(name)) {}

  void all_reduce(void*, int64_t count, DType dtype, ReduceOp op) override {
    collective::check_all_reduce(count, dtype, op);
    Communicator::count(0);
  }

  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override {
    RESTKV_CHECK(count >= 0, "all_gather of {} elements", count);
    collective::copy_bytes(recv, send, count * size_of(dtype));
    Communicator::count(0);
  }

  void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                    std::span<const int64_t> displacements, DType dtype) override {
    collective::check_all_gather_v(1, counts, displacements);
    if (counts[0] > 0)
      collective::copy_bytes(static_cast<char*>(recv) + displacements[0] * size_of(dtype), send,
                             counts[0] * size_of(dtype));
    Communicator::count(0);
  }

  void broadcast(void*, int64_t count, DType, int root) override {
    collective::check_broadcast(1, count, root);
    Communicator::count(0);
  }

  void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                 DType dtype) override {
    collective::check_send_recv(0, 1, send_count, destination, recv_count, source);
    if (destination == 0) collective::copy_bytes(recv, send, send_count * size_of(dtype));
    Communicator::count(0);
  }

  void barrier() override { Communicator::count(0); }

  std::unique_ptr<Communicator> split(int color, int, std::string name) override {
    RESTKV_CHECK(color >= 0, "split of group {} with color {}", this->name(), color);
    return make_self_communicator(std::move(name));
  }
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator(std::string name) {
  return std::make_unique<SelfCommunicator>(std::move(name));
}

}  // namespace restkv
