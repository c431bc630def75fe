#include "dist/comm/phased_communicator.h"

#include <exception>

#include "dist/base/activity.h"

namespace restkv {

// The phase of the calls while it lives, then the one before.
class PhasedCommunicator::Scope {
 public:
  explicit Scope(const PhasedCommunicator& group) : clock_(group.size() > 1 ? group.clock_ : nullptr) {
    if (clock_ == nullptr) return;
    before_ = clock_->current();
    clock_->start(group.phase_);
    activity().step = step_;  // messages name what the exchange is for
  }
  // After an error nobody asks for times any more.
  ~Scope() {
    if (clock_ == nullptr || std::uncaught_exceptions() != exceptions_) return;
    clock_->start(before_);
    activity().step = step_;
  }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  PhaseClock* clock_;
  const char* before_ = nullptr;
  const char* step_ = activity().step;
  int exceptions_ = std::uncaught_exceptions();
};

void PhasedCommunicator::all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) {
  Scope scope(*this);
  group_.all_reduce(data, count, dtype, op);
}

void PhasedCommunicator::all_gather(const void* send, void* recv, int64_t count, DType dtype) {
  Scope scope(*this);
  group_.all_gather(send, recv, count, dtype);
}

void PhasedCommunicator::all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                                      std::span<const int64_t> displacements, DType dtype) {
  Scope scope(*this);
  group_.all_gather_v(send, recv, counts, displacements, dtype);
}

void PhasedCommunicator::broadcast(void* data, int64_t count, DType dtype, int root) {
  Scope scope(*this);
  group_.broadcast(data, count, dtype, root);
}

void PhasedCommunicator::send_recv(const void* send, int64_t send_count, int destination, void* recv,
                                   int64_t recv_count, int source, DType dtype) {
  Scope scope(*this);
  group_.send_recv(send, send_count, destination, recv, recv_count, source, dtype);
}

void PhasedCommunicator::barrier() {
  Scope scope(*this);
  group_.barrier();
}

std::shared_ptr<void> PhasedCommunicator::beside(const std::function<void()>& calls) {
  Scope scope(*this);
  return group_.beside(calls);
}

std::shared_ptr<void> PhasedCommunicator::beside_first(const std::function<void()>& calls) {
  Scope scope(*this);
  return group_.beside_first(calls);
}

void PhasedCommunicator::join(const void* ticket) {
  Scope scope(*this);
  group_.join(ticket);
}

std::unique_ptr<Communicator> PhasedCommunicator::split(int color, int key, std::string name) {
  return group_.split(color, key, std::move(name));
}

}  // namespace restkv
