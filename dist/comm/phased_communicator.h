// A group whose calls are timed as a phase of their own.
#pragma once

#include "dist/base/phase_clock.h"
#include "dist/comm/communicator.h"

namespace restkv {

/// Passes every call on to `group`, which outlives it and counts what is sent. While a clock is set, the calls run in
/// phase `phase` (a literal), and what ran before them goes on behind them: of calls beside other work the wait in
/// join(). Waits for ranks that come later are part of it. Groups of one rank exchange nothing and take no time.
class PhasedCommunicator final : public Communicator {
 public:
  PhasedCommunicator(Communicator& group, const char* phase)
      : Communicator(group.rank(), group.size(), group.name()), group_(group), phase_(phase) {}

  /// Null: calls are not timed.
  void set_clock(PhaseClock* clock) { clock_ = clock; }

  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) override;
  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override;
  void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                    std::span<const int64_t> displacements, DType dtype) override;
  void broadcast(void* data, int64_t count, DType dtype, int root) override;
  void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                 DType dtype) override;
  void barrier() override;
  std::shared_ptr<void> beside(const std::function<void()>& calls) override;
  std::shared_ptr<void> beside_first(const std::function<void()>& calls) override;
  void join(const void* ticket) override;
  std::unique_ptr<Communicator> split(int color, int key, std::string name) override;

 private:
  class Scope;

  Communicator& group_;
  const char* phase_;
  PhaseClock* clock_ = nullptr;
};

}  // namespace restkv
