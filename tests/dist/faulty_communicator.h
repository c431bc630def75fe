// A communicator that fails on purpose: forwards every call to another one, and at the N-th call of this rank does
// what it was told. Collectives stay free of test code.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "dist/comm/communicator.h"

namespace restkv::testing_support {

struct Fault {
  /// When it is set: the fault comes with the first call of any group for which it is true; at_call does not count.
  std::function<bool()> when;
  int at_call = 0;               ///< 0: the first call
  std::function<void()> action;  ///< sleeps, throws, or kills the process; afterwards the call goes on
  int64_t extra_elements = 0;    ///< this call's counts grow by so many: ranks that disagree
};

class FaultyCommunicator final : public Communicator {
 public:
  FaultyCommunicator(std::unique_ptr<Communicator> inner, Fault fault)
      : Communicator(inner->rank(), inner->size(), inner->name()), inner_(std::move(inner)), fault_(std::move(fault)) {}

  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) override {
    inner_->all_reduce(data, count + fail(), dtype, op);
  }
  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override {
    inner_->all_gather(send, recv, count + fail(), dtype);
  }
  void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                    std::span<const int64_t> displacements, DType dtype) override {
    std::vector<int64_t> changed(counts.begin(), counts.end());
    int64_t extra = fail();
    for (int64_t& n : changed) n += extra;
    inner_->all_gather_v(send, recv, changed, displacements, dtype);
  }
  void broadcast(void* data, int64_t count, DType dtype, int root) override {
    inner_->broadcast(data, count + fail(), dtype, root);
  }
  void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                 DType dtype) override {
    inner_->send_recv(send, send_count + fail(), destination, recv, recv_count, source, dtype);
  }
  void barrier() override {
    fail();
    inner_->barrier();
  }
  std::shared_ptr<void> beside(const std::function<void()>& calls) override { return inner_->beside(calls); }
  std::shared_ptr<void> beside_first(const std::function<void()>& calls) override {
    return inner_->beside_first(calls);
  }
  void join(const void* ticket) override { inner_->join(ticket); }
  std::unique_ptr<Communicator> split(int color, int key, std::string name) override {
    auto part = std::make_unique<FaultyCommunicator>(inner_->split(color, key, std::move(name)), fault_);
    part->failed_ = failed_;
    return part;
  }

 private:
  int64_t fail() {
    if (fault_.when ? *failed_ || !fault_.when() : calls_++ != fault_.at_call) return 0;
    *failed_ = true;
    if (fault_.action) fault_.action();
    return fault_.extra_elements;
  }

  std::unique_ptr<Communicator> inner_;
  Fault fault_;
  int calls_ = 0;
  std::shared_ptr<bool> failed_ = std::make_shared<bool>(false);  // shared with the sub-groups
};

}  // namespace restkv::testing_support
