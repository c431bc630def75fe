#include "dist/comm/mpi_communicator.h"

#include <algorithm>
#include <exception>
#include <vector>

#include "dist/base/error.h"
#include "dist/comm/collective.h"
#include "dist/comm/mpi_check.h"

namespace restkv {
namespace {

// Elements are moved as opaque units of their size: no type of ours needs MPI's arithmetic.
MPI_Datatype unit_of(DType dtype) {
  switch (size_of(dtype)) {
    case 8: return MPI_UINT64_T;
    case 4: return MPI_UINT32_T;
    case 2: return MPI_UINT16_T;
    default: return MPI_UINT8_T;
  }
}

// Bytes up to which all_reduce gathers everything and folds it everywhere: one exchange instead of two.
constexpr int64_t kGatherAndFoldBytes = 8192;
// Elements that all_reduce works on at a time: bounds its scratch, and keeps it in the caches.
constexpr int64_t kReduceBlock = int64_t{1} << 20;
constexpr int kTag = 0;

class MpiCommunicator final : public Communicator {
 public:
  /// Takes the ownership of `comm`.
  MpiCommunicator(MPI_Comm comm, int rank, int size, std::string name, const MpiOptions& options)
      : Communicator(rank, size, std::move(name)), comm_(comm), options_(options) {
    RESTKV_CHECK(options_.max_count >= 1 && options_.max_count <= std::numeric_limits<int>::max(), "max_count {}",
                 options_.max_count);
    RESTKV_MPI_CHECK(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
  }

  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    // Freeing is collective. While an exception unwinds, the other ranks may never come.
    if (!finalized && std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
  }

  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) override {
    collective::check_all_reduce(count, dtype, op);
    int64_t bytes = count * size_of(dtype);
    auto scope = enter("all_reduce", bytes);
    int64_t block = std::min(kReduceBlock, options_.max_count);
    for (int64_t first = 0; first < count && size() > 1; first += block) {
      int64_t n = std::min(block, count - first);
      void* part = at(data, first, dtype);
      if (n * size_of(dtype) <= kGatherAndFoldBytes && n * size() <= options_.max_count)
        reduce_everywhere(part, n, dtype, op);
      else
        reduce_in_segments(part, n, dtype, op);
    }
    Communicator::count(collective::sent_by_all_reduce(size(), bytes));
  }

  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override {
    RESTKV_CHECK(count >= 0, "all_gather of {} elements", count);
    int64_t bytes = count * size_of(dtype);
    auto scope = enter("all_gather", bytes);
    if (count * size() <= options_.max_count) {
      const void* from = send == at(recv, rank() * count, dtype) ? MPI_IN_PLACE : send;
      RESTKV_MPI_CHECK(MPI_Allgather(from, static_cast<int>(count), unit_of(dtype), recv, static_cast<int>(count),
                                     unit_of(dtype), comm_));
    } else {
      std::vector<int64_t> counts(size(), count), displacements(size());
      for (int r = 0; r < size(); ++r) displacements[r] = r * count;
      exchange_pairwise(send, recv, counts, displacements, dtype);
    }
    Communicator::count(collective::sent_by_all_gather(size(), bytes));
  }

  void all_gather_v(const void* send, void* recv, std::span<const int64_t> counts,
                    std::span<const int64_t> displacements, DType dtype) override {
    collective::check_all_gather_v(size(), counts, displacements);
    int64_t bytes = counts[rank()] * size_of(dtype);
    auto scope = enter("all_gather_v", bytes);
    int64_t last = 0;
    for (int r = 0; r < size(); ++r) last = std::max(last, displacements[r] + counts[r]);
    if (last <= options_.max_count) {
      std::vector<int> n(counts.begin(), counts.end()), at_element(displacements.begin(), displacements.end());
      const void* from = send == at(recv, displacements[rank()], dtype) ? MPI_IN_PLACE : send;
      RESTKV_MPI_CHECK(
          MPI_Allgatherv(from, n[rank()], unit_of(dtype), recv, n.data(), at_element.data(), unit_of(dtype), comm_));
    } else {
      exchange_pairwise(send, recv, counts, displacements, dtype);
    }
    Communicator::count(collective::sent_by_all_gather(size(), bytes));
  }

  void broadcast(void* data, int64_t count, DType dtype, int root) override {
    collective::check_broadcast(size(), count, root);
    int64_t bytes = count * size_of(dtype);
    auto scope = enter("broadcast", bytes);
    for (int64_t first = 0; first < count; first += options_.max_count) {
      int n = static_cast<int>(std::min(options_.max_count, count - first));
      RESTKV_MPI_CHECK(MPI_Bcast(at(data, first, dtype), n, unit_of(dtype), root, comm_));
    }
    Communicator::count(collective::sent_by_broadcast(size(), bytes, root == rank()));
  }

  void send_recv(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                 DType dtype) override {
    collective::check_send_recv(rank(), size(), send_count, destination, recv_count, source);
    int64_t bytes = send_count * size_of(dtype);
    if (destination == rank()) {
      collective::copy_bytes(recv, send, bytes);
      Communicator::count(0);
      return;
    }
    auto scope = enter("send_recv", destination >= 0 ? bytes : recv_count * size_of(dtype));
    exchange(send, send_count, destination, recv, recv_count, source, dtype);
    Communicator::count(destination >= 0 ? bytes : 0);
  }

  void barrier() override {
    auto scope = enter("barrier", 0);
    RESTKV_MPI_CHECK(MPI_Barrier(comm_));
    Communicator::count(0);
  }

  std::unique_ptr<Communicator> split(int color, int key, std::string name) override {
    RESTKV_CHECK(color >= 0, "split of group {} with color {}", this->name(), color);
    auto scope = enter("split", 0);
    MPI_Comm part = MPI_COMM_NULL;
    RESTKV_MPI_CHECK(MPI_Comm_split(comm_, color, key, &part));
    return adopt(part, std::move(name), options_);
  }

  static std::unique_ptr<Communicator> adopt(MPI_Comm comm, std::string name, const MpiOptions& options) {
    int rank = 0, size = 1;
    RESTKV_MPI_CHECK(MPI_Comm_rank(comm, &rank));
    RESTKV_MPI_CHECK(MPI_Comm_size(comm, &size));
    return std::make_unique<MpiCommunicator>(comm, rank, size, std::move(name), options);
  }

 private:
  static void* at(void* base, int64_t element, DType dtype) {
    return static_cast<char*>(base) + element * size_of(dtype);
  }
  static const void* at(const void* base, int64_t element, DType dtype) {
    return static_cast<const char*>(base) + element * size_of(dtype);
  }

  Watchdog::Scope enter(std::string_view operation, int64_t bytes) const {
    return options_.watchdog ? options_.watchdog->enter(operation, name(), bytes) : Watchdog::Scope();
  }

  // Both reductions fold the ranks in rank order, so they give the same bits for every element on every rank.
  void reduce_everywhere(void* data, int64_t count, DType dtype, ReduceOp op) {
    int64_t bytes = count * size_of(dtype);
    scratch_.resize(static_cast<size_t>(bytes * size()));
    RESTKV_MPI_CHECK(MPI_Allgather(data, static_cast<int>(count), unit_of(dtype), scratch_.data(),
                                   static_cast<int>(count), unit_of(dtype), comm_));
    for (int r = 1; r < size(); ++r) collective::fold(scratch_.data(), &scratch_[r * bytes], count, dtype, op);
    collective::copy_bytes(data, scratch_.data(), bytes);
  }

  // Rank r receives segment r of every rank, folds it and hands the result to all.
  void reduce_in_segments(void* data, int64_t count, DType dtype, ReduceOp op) {
    std::vector<int> send_counts(size()), send_at(size()), recv_counts(size()), recv_at(size());
    int own = static_cast<int>(segment(count, rank()).second);
    for (int r = 0; r < size(); ++r) {
      auto [first, n] = segment(count, r);
      send_at[r] = static_cast<int>(first);
      send_counts[r] = static_cast<int>(n);
      recv_at[r] = r * own;
      recv_counts[r] = own;
    }
    int64_t own_bytes = own * size_of(dtype);
    scratch_.resize(static_cast<size_t>(std::max<int64_t>(1, own_bytes * size())));
    RESTKV_MPI_CHECK(MPI_Alltoallv(data, send_counts.data(), send_at.data(), unit_of(dtype), scratch_.data(),
                                   recv_counts.data(), recv_at.data(), unit_of(dtype), comm_));
    for (int r = 1; r < size(); ++r) collective::fold(scratch_.data(), &scratch_[r * own_bytes], own, dtype, op);
    collective::copy_bytes(at(data, send_at[rank()], dtype), scratch_.data(), own_bytes);
    RESTKV_MPI_CHECK(MPI_Allgatherv(MPI_IN_PLACE, 0, unit_of(dtype), data, send_counts.data(), send_at.data(),
                                    unit_of(dtype), comm_));
  }

  // First element and length of segment r of `count` elements.
  std::pair<int64_t, int64_t> segment(int64_t count, int r) const {
    int64_t first = count * r / size();
    return {first, count * (r + 1) / size() - first};
  }

  // all_gather_v for what MPI's int counts and displacements cannot say.
  void exchange_pairwise(const void* send, void* recv, std::span<const int64_t> counts,
                         std::span<const int64_t> displacements, DType dtype) {
    collective::copy_bytes(at(recv, displacements[rank()], dtype), send, counts[rank()] * size_of(dtype));
    for (int step = 1; step < size(); ++step) {
      int to = (rank() + step) % size(), from = (rank() - step + size()) % size();
      exchange(send, counts[rank()], to, at(recv, displacements[from], dtype), counts[from], from, dtype);
    }
  }

  void exchange(const void* send, int64_t send_count, int destination, void* recv, int64_t recv_count, int source,
                DType dtype) {
    const int64_t limit = options_.max_count;
    // No elements are still one (empty) message, as on the other side.
    int64_t sends = destination < 0 ? 0 : std::max<int64_t>(1, (send_count + limit - 1) / limit);
    int64_t receives = source < 0 ? 0 : std::max<int64_t>(1, (recv_count + limit - 1) / limit);
    for (int64_t i = 0; i < std::max(sends, receives); ++i) {
      int to = i < sends ? destination : MPI_PROC_NULL, from = i < receives ? source : MPI_PROC_NULL;
      int out = i < sends ? static_cast<int>(std::min(limit, send_count - i * limit)) : 0;
      int in = i < receives ? static_cast<int>(std::min(limit, recv_count - i * limit)) : 0;
      MPI_Status status;
      RESTKV_MPI_CHECK(MPI_Sendrecv(at(send, out > 0 ? i * limit : 0, dtype), out, unit_of(dtype), to, kTag,
                                    at(recv, in > 0 ? i * limit : 0, dtype), in, unit_of(dtype), from, kTag, comm_,
                                    &status));
      int received = 0;
      RESTKV_MPI_CHECK(MPI_Get_count(&status, unit_of(dtype), &received));
      // MPI accepts a message that is too short; for us it means that two ranks disagree.
      if (from != MPI_PROC_NULL && received != in)
        fail_runtime("rank {} of group {} received {} of {} {} elements from rank {}", rank(), name(), received, in,
                     name_of(dtype), source);
    }
  }

  MPI_Comm comm_;
  MpiOptions options_;
  std::vector<char> scratch_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiOptions& options) {
  RESTKV_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  MPI_Comm own = MPI_COMM_NULL;
  RESTKV_MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &own));
  return MpiCommunicator::adopt(own, "world", options);
}

}  // namespace restkv
