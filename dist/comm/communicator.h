// Collectives over a group of ranks. Implementations: self (one rank), mpi (CPU memory), nccl (GPU memory).
// Every call is collective over the group: all ranks make the same calls in the same order with matching counts.
// Buffers are contiguous, counts are elements. Each call stands under the group's watchdog: one that does not end
// within the deadline ends the whole run with a message that names the rank, the group, the call and its bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "dist/base/dtype.h"
#include "dist/base/tensor.h"

namespace restkv {

enum class ReduceOp { sum, max, min };

/// What this rank sent to others, by the formulas in dist/README.md (a collective of n ranks counts the bytes that a
/// ring or pairwise exchange has to move per rank, whatever the library does).
struct CommStats {
  int64_t calls = 0;
  int64_t bytes_sent = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// "world", "sequence" or "tensor"; used in messages.
  const std::string& name() const { return name_; }
  const CommStats& stats() const { return stats_; }
  /// Counts what was sent without a call: the replay of calls captured in a graph, which were counted at the capture,
  /// and what kernels of ours exchange by themselves.
  void add_stats(const CommStats& more) {
    stats_.calls += more.calls;
    stats_.bytes_sent += more.bytes_sent;
  }

  /// Element-wise reduction of `count` elements in place; every rank ends with the same bits. f32, f64, i32, i64,
  /// u32, u64 (max and min too); sums of bf16, rounded at every addition.
  virtual void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) = 0;

  /// `count` elements of every rank, in rank order, into recv [size * count]. send may be recv + rank * count.
  virtual void all_gather(const void* send, void* recv, int64_t count, DType dtype) = 0;

  /// counts[r] elements of rank r go to recv + displacements[r] on every rank (any order, gaps allowed, counts may
  /// be zero). send holds counts[rank] elements.
  virtual void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                            std::span<const int64_t> displacements, DType dtype) = 0;

  virtual void broadcast(void* data, int64_t count, DType dtype, int root) = 0;

  /// Sends to `destination` and receives from `source` at once (either may be this rank, or -1 for none).
  virtual void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count,
                         int source, DType dtype) = 0;

  virtual void barrier() = 0;

  /// Makes the collectives that `calls` makes of this group run beside what is enqueued after them, where the devices
  /// can: they begin when all work enqueued before has ended. Their buffers are neither read nor written until join().
  /// Returns a ticket for it. On CPU ranks the calls have ended on return.
  virtual std::shared_ptr<void> beside(const std::function<void()>& calls) {
    calls();
    return nullptr;
  }
  /// As beside(), for calls of which none reads what another one writes. They begin as one, and ahead of what is
  /// enqueued next, which waits a few microseconds for that: a kernel that holds all of a GPU's multiprocessors until
  /// it ends would else make all ranks wait for its end.
  virtual std::shared_ptr<void> beside_first(const std::function<void()>& calls) { return beside(calls); }
  /// What is enqueued after it waits for the ticket's collectives; the host does not.
  virtual void join(const void* /*ticket*/) {}

  /// Sub-groups: ranks with the same color, ordered by key. Collective over this group.
  virtual std::unique_ptr<Communicator> split(int color, int key, std::string name) = 0;

  // Typed helpers.
  template <class T>
  void all_reduce(std::span<T> data, ReduceOp op = ReduceOp::sum) {
    all_reduce(data.data(), static_cast<int64_t>(data.size()), dtype_of<T>(), op);
  }
  template <class T>
  void broadcast(std::span<T> data, int root) {
    broadcast(data.data(), static_cast<int64_t>(data.size()), dtype_of<T>(), root);
  }

 protected:
  Communicator(int rank, int size, std::string name) : rank_(rank), size_(size), name_(std::move(name)) {}
  void count(int64_t bytes_sent) {
    ++stats_.calls;
    stats_.bytes_sent += bytes_sent;
  }

 private:
  int rank_;
  int size_;
  std::string name_;
  CommStats stats_;
};

/// The group of one rank: copies at most.
std::unique_ptr<Communicator> make_self_communicator(std::string name = "world");

}  // namespace restkv
