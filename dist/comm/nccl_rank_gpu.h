// What the NCCL groups of one rank share: streams, the monitor, the live communicators. For nccl_*_gpu.cu only.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "dist/base/gpu_handles.h"
#include "dist/comm/device_monitor.h"
#include "dist/comm/nccl_communicator.h"
#include "dist/comm/nccl_handles.h"

namespace restkv::detail {

/// The communicators whose asynchronous errors are asked for; by the monitor's thread, too.
class LiveComms {
 public:
  void add(ncclComm_t comm, const std::string& group);
  void remove(ncclComm_t comm);
  std::string error();  ///< empty: none

 private:
  std::mutex mutex_;
  std::vector<std::pair<ncclComm_t, std::string>> all_;
};

class NcclRank {
 public:
  NcclRank(Context& ctx, int world_rank, const NcclOptions& options);
  ~NcclRank();
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;

  /// Owns a communicator: destroys it at the end, but not while an exception unwinds. Its peers may never come then,
  /// and neither NCCL nor the driver would return.
  static std::shared_ptr<ncclComm> adopt(const std::shared_ptr<NcclRank>& rank, ncclComm_t comm,
                                         const std::string& group);

  ncclConfig_t config() const;
  /// The context's stream, or the one that runs beside it.
  cudaStream_t stream(bool beside) const { return beside ? beside_ : stream_of(ctx); }

  /// Waits for both streams; the monitor ends the run when a collective in them hangs.
  void wait_for_all();

  Context& ctx;
  const NcclOptions options;

  /// The time of one call, on this rank's monitor (if it has one).
  class Call {
   public:
    Call(NcclRank& rank, bool beside, std::string_view operation, const std::string& group, int64_t bytes,
         int64_t number);
    ~Call();  ///< without enqueued(): the call has ended, or failed
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    /// The call ends when `stream` gets here.
    void enqueued();

   private:
    NcclRank& rank_;
    bool beside_;
    bool open_;
  };

 private:
  std::unique_ptr<DeviceMonitor> make_monitor(int world_rank) const;

  cudaStream_t beside_ = nullptr;
  const std::shared_ptr<LiveComms> comms_ = std::make_shared<LiveComms>();
  std::unique_ptr<DeviceMonitor> monitor_;
  std::shared_ptr<void> launch_hook_;
  int64_t launches_ = 0;
};

/// Whether `stream` is being captured into a graph.
bool is_capturing(cudaStream_t stream);

}  // namespace restkv::detail
