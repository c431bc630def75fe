#include <vector>

#include "dist/comm/collective.h"
#include "dist/comm/nccl_rank_gpu.h"

namespace restkv::detail {
namespace {

[[noreturn]] void absent(const char* call) { fail_runtime("{} of host memory over NCCL is not there", call); }

// Host memory by way of the device.
class NcclHost final : public Communicator {
 public:
  NcclHost(std::shared_ptr<NcclRank> own, std::shared_ptr<ncclComm> comm, int rank, int size, std::string name)
      : Communicator(rank, size, std::move(name)), own_(std::move(own)), comm_(std::move(comm)) {}

  void all_gather(const void* send, void* recv, int64_t count, DType dtype) override {
    const int64_t bytes = count * size_of(dtype);
    if (bytes == 0) return;
    NcclRank::Call call(*own_, false, "all_gather of the hosts", name(), bytes, stats().calls);
    Tensor from = own_->ctx.to_device(send, DType::u8, {bytes});
    Tensor to = own_->ctx.empty(DType::u8, {size(), bytes});
    RESTKV_NCCL_CHECK(
        ncclAllGather(from.raw(), to.raw(), static_cast<size_t>(bytes), ncclUint8, comm_.get(), own_->stream(false)));
    own_->ctx.to_host(to.raw(), recv, to.bytes());
    count_call();
  }

  void all_reduce(void* data, int64_t count, DType dtype, ReduceOp op) override {
    collective::check_all_reduce(count, dtype, op);
    const int64_t bytes = count * size_of(dtype);
    std::vector<char> all(static_cast<size_t>(bytes * size()));
    all_gather(data, all.data(), count, dtype);
    collective::copy_bytes(data, all.data(), bytes);
    for (int r = 1; r < size(); ++r) collective::fold(data, all.data() + r * bytes, count, dtype, op);
  }

  void barrier() override {
    std::vector<char> all(static_cast<size_t>(size()));
    const char mine = 0;
    all_gather(&mine, all.data(), 1, DType::u8);
  }

  void all_gather_v(const void*, void*, std::span<const int64_t>, std::span<const int64_t>, DType) override {
    absent("all_gather_v");
  }
  void broadcast(void*, int64_t, DType, int) override { absent("broadcast"); }
  void send_recv(const void*, int64_t, int, void*, int64_t, int, DType) override { absent("send_recv"); }
  std::unique_ptr<Communicator> split(int, int, std::string) override { absent("split"); }

 private:
  void count_call() { count(0); }

  std::shared_ptr<NcclRank> own_;
  std::shared_ptr<ncclComm> comm_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_host(std::shared_ptr<NcclRank> own, std::shared_ptr<ncclComm> comm, int rank,
                                             int size, std::string name) {
  return std::make_unique<NcclHost>(std::move(own), std::move(comm), rank, size, std::move(name));
}

}  // namespace restkv::detail
