#include <unistd.h>

#include <cstring>
#include <exception>
#include <fstream>

#include "dist/base/gpu_handles.h"
#include "dist/comm/peer_memory.h"

namespace restkv {
namespace {

// What the ranks tell each other about their memory.
struct Card {
  char host[64];
  int64_t process;
  int32_t device;
  int32_t ready;  // 0: this rank could not make its part
  uint64_t address;
  cudaIpcMemHandle_t handle;
};
static_assert(std::is_trivially_copyable_v<Card>);

// The same text for processes of one running kernel, and for no others.
void write_host(char (&host)[64]) {
  std::memset(host, 0, sizeof host);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  if (boot.empty())
    gethostname(host, sizeof host - 1);
  else
    boot.copy(host, sizeof host - 1);
}

class CudaPeerMemory final : public PeerMemory {
 public:
  CudaPeerMemory(Context& ctx, Communicator& control, const std::vector<int>& group, const Options& options)
      : control_(control), stream_(stream_of(ctx)) {
    group_ = group;
    timeout_s_ = options.timeout_s;
    view_.size = static_cast<int>(group.size());
    view_.words = options.words;
    // For ever is 150 years: the clock's 64 bits hold their sum.
    view_.timeout_ns = options.timeout_s > 0.0 ? static_cast<uint64_t>(options.timeout_s * 1e9) : uint64_t{1} << 62;
    for (size_t r = 0; r < group.size(); ++r)
      if (group[r] == control.rank()) view_.rank = static_cast<int>(r);
  }

  ~CudaPeerMemory() override {
    if (std::uncaught_exceptions() > 0) return;  // the process is about to end; peers may still write
    cudaStreamSynchronize(stream_);
    close();
    // A peer's mapping must be gone before the memory is.
    if (shared_) {
      try {
        control_.barrier();
      } catch (const Error&) {
        return;
      }
    }
    cudaFree(own_);
    cudaFree(view_.state);
    if (view_.fault != nullptr) cudaFreeHost(view_.fault);
  }

  // This rank's memory; returns what the others have to know of it.
  Card allocate() {
    Card card{};
    write_host(card.host);
    card.process = getpid();
    cudaGetDevice(&card.device);
    // Whole pages: what shares a page with it would be mapped into the peers as well.
    constexpr int64_t kPage = int64_t{2} << 20;
    const auto bytes = static_cast<size_t>((PeerMemory::bytes(view_.size, view_.words) + kPage - 1) / kPage * kPage);
    // A range of its own: memory of the stream's pool has no handle of this kind.
    card.ready = try_to(cudaMalloc(&own_, bytes)) && try_to(cudaMemset(own_, 0, bytes)) &&
                 try_to(cudaMalloc(reinterpret_cast<void**>(&view_.state), 4 * sizeof(uint32_t))) &&
                 try_to(cudaHostAlloc(reinterpret_cast<void**>(&view_.fault), sizeof(uint64_t), cudaHostAllocPortable));
    if (card.ready == 0) return card;
    *view_.fault = 0;
    const uint32_t state[4] = {1, 0, 0, 0};  // epoch 0 is what the memory is full of
    card.ready = try_to(cudaMemcpy(view_.state, state, sizeof state, cudaMemcpyHostToDevice)) &&
                 try_to(cudaDeviceSynchronize()) && try_to(cudaIpcGetMemHandle(&card.handle, own_));
    card.address = reinterpret_cast<uint64_t>(own_);
    return card;
  }

  // Maps the memory of all ranks of the group; false with a reason.
  bool open(const std::vector<Card>& cards) {
    const Card& mine = cards[static_cast<size_t>(group_[static_cast<size_t>(view_.rank)])];
    if (view_.size > kMaxPeers) return refuse(fmt::format("{} ranks, at most {}", view_.size, kMaxPeers));
    for (int r = 0; r < view_.size; ++r) {
      const Card& card = cards[static_cast<size_t>(group_[static_cast<size_t>(r)])];
      if (card.ready == 0) return r == view_.rank ? false : refuse(fmt::format("rank {} has none", group_[r]));
      if (std::strncmp(card.host, mine.host, sizeof mine.host) != 0)
        return refuse(fmt::format("rank {} is on another host", group_[r]));
      void* address = r == view_.rank ? own_ : open_peer(card, mine);
      if (address == nullptr) return false;
      view_.block[r] = static_cast<uint64_t*>(address);
    }
    return true;
  }

  void close() {
    for (void* mapped : mapped_) cudaIpcCloseMemHandle(mapped);
    mapped_.clear();
  }

  void set_shared() { shared_ = true; }
  const std::string& reason() const { return reason_; }

 private:
  bool refuse(std::string reason) {
    if (reason_.empty()) reason_ = std::move(reason);
    return false;
  }
  // Like RESTKV_CUDA_CHECK, but a failure leaves us without peer memory and not without a run.
  bool try_to(cudaError_t status) {
    if (status == cudaSuccess) return true;
    cudaGetLastError();
    return refuse(cudaGetErrorString(status));
  }

  void* open_peer(const Card& card, const Card& mine) {
    if (card.process != mine.process) {
      void* mapped = nullptr;
      if (!try_to(cudaIpcOpenMemHandle(&mapped, card.handle, cudaIpcMemLazyEnablePeerAccess))) return nullptr;
      mapped_.push_back(mapped);
      return mapped;
    }
    // Ranks that are threads of one process.
    if (card.device != mine.device) {
      const cudaError_t status = cudaDeviceEnablePeerAccess(card.device, 0);
      if (status == cudaErrorPeerAccessAlreadyEnabled)
        cudaGetLastError();
      else if (!try_to(status))
        return nullptr;
    }
    return reinterpret_cast<void*>(card.address);
  }

  Communicator& control_;
  cudaStream_t stream_;
  void* own_ = nullptr;
  std::vector<void*> mapped_;
  bool shared_ = false;  // peers have this rank's memory mapped
  std::string reason_;
};

}  // namespace

std::unique_ptr<PeerMemory> PeerMemory::create(Context& ctx, Communicator& control, const std::vector<int>& group,
                                               const Options& options, std::string* reason) {
  RESTKV_CHECK(options.words > 0 && options.words % 2 == 0, "peer memory: messages of {} words", options.words);
  auto memory = std::make_unique<CudaPeerMemory>(ctx, control, group, options);
  RESTKV_CHECK(!group.empty() && group[static_cast<size_t>(memory->view().rank)] == control.rank(),
               "peer memory: rank {} is not in its group", control.rank());
  const Card mine = memory->allocate();
  std::vector<Card> cards(static_cast<size_t>(control.size()));
  control.all_gather(&mine, cards.data(), int64_t{sizeof(Card)}, DType::u8);
  int32_t open = memory->open(cards) ? 1 : 0;
  control.all_reduce(&open, 1, DType::i32, ReduceOp::min);
  memory->set_shared();
  if (open != 0) return memory;
  if (reason != nullptr) *reason = memory->reason().empty() ? "another rank has none" : memory->reason();
  return nullptr;  // collective again: all ranks are here
}

}  // namespace restkv
