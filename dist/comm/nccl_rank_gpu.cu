#include <algorithm>
#include <exception>

#include "dist/comm/nccl_rank_gpu.h"

namespace restkv {
namespace detail {

void nccl_failed(const char* call, const char* file, int line, ncclResult_t status) {
  const char* last = ncclGetLastError(nullptr);
  fail_runtime("{}:{}: {}: {}{}{}", file, line, call, ncclGetErrorString(status),
               last != nullptr && *last != '\0' ? "; NCCL says: " : "", last != nullptr ? last : "");
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  RESTKV_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

void LiveComms::add(ncclComm_t comm, const std::string& group) {
  std::lock_guard lock(mutex_);
  all_.emplace_back(comm, group);
}

void LiveComms::remove(ncclComm_t comm) {
  std::lock_guard lock(mutex_);
  std::erase_if(all_, [comm](const auto& entry) { return entry.first == comm; });
}

std::string LiveComms::error() {
  std::lock_guard lock(mutex_);
  for (const auto& [comm, group] : all_) {
    ncclResult_t status = ncclSuccess;
    ncclResult_t asked = ncclCommGetAsyncError(comm, &status);
    if (asked == ncclSuccess && (status == ncclSuccess || status == ncclInProgress)) continue;
    return fmt::format("NCCL failed in group {}: {}; {}", group,
                       ncclGetErrorString(asked != ncclSuccess ? asked : status), ncclGetLastError(comm));
  }
  return "";
}

NcclRank::NcclRank(Context& context, int world_rank, const NcclOptions& chosen) : ctx(context), options(chosen) {
  int least = 0, greatest = 0;
  RESTKV_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  // A collective has few blocks and other ranks wait for it: they go before those of a kernel that fills the device.
  RESTKV_CUDA_CHECK(cudaStreamCreateWithPriority(&beside_, cudaStreamNonBlocking, greatest));
  if (options.timeout_s <= 0.0) return;
  RESTKV_CHECK(options.on_expired != nullptr, "a deadline of {} s needs a way to end all ranks", options.timeout_s);
  monitor_ = make_monitor(world_rank);
  // Collectives captured in a graph have no marks of their own: the launch as a whole has the deadline.
  launch_hook_ = ctx.gpu()->after_launch([this] {
    Call call(*this, false, "graph launch", "world", 0, launches_++);
    call.enqueued();
  });
}

NcclRank::~NcclRank() {
  launch_hook_.reset();
  if (std::uncaught_exceptions() > 0) {
    // What is enqueued may never end. The deadline stays in force until the process ends.
    (void)monitor_.release();
    return;
  }
  monitor_.reset();
  cudaStreamDestroy(beside_);
}

std::unique_ptr<DeviceMonitor> NcclRank::make_monitor(int world_rank) const {
  int device = 0;
  RESTKV_CUDA_CHECK(cudaGetDevice(&device));
  DeviceMonitor::Probe probe;
  probe.start = [device] { RESTKV_CUDA_CHECK(cudaSetDevice(device)); };
  probe.make_mark = [] {
    cudaEvent_t event = nullptr;
    RESTKV_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return static_cast<void*>(event);
  };
  probe.drop_mark = [](void* mark) { cudaEventDestroy(static_cast<cudaEvent_t>(mark)); };
  probe.ended = [](void* mark) {
    cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(mark));
    if (status == cudaErrorNotReady) return false;
    RESTKV_CUDA_CHECK(status);
    return true;
  };
  probe.error = [comms = comms_] { return comms->error(); };
  return std::make_unique<DeviceMonitor>(options.timeout_s, world_rank, std::move(probe), options.on_expired);
}

std::shared_ptr<ncclComm> NcclRank::adopt(const std::shared_ptr<NcclRank>& rank, ncclComm_t comm,
                                          const std::string& group) {
  rank->comms_->add(comm, group);
  return {comm, [rank, group](ncclComm_t c) {
            rank->comms_->remove(c);
            if (std::uncaught_exceptions() > 0) return;
            Call call(*rank, false, "end", group, 0, 0);
            cudaStreamSynchronize(rank->stream(false));
            cudaStreamSynchronize(rank->stream(true));
            ncclCommDestroy(c);
          }};
}

ncclConfig_t NcclRank::config() const {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 1;
  // Groups that share resources could not be used on two streams at once.
  config.splitShare = 0;
  if (options.max_blocks > 0) config.maxCTAs = options.max_blocks;
  return config;
}

void NcclRank::wait_for_all() {
  RESTKV_CUDA_CHECK(cudaStreamSynchronize(stream(false)));
  RESTKV_CUDA_CHECK(cudaStreamSynchronize(stream(true)));
}

NcclRank::Call::Call(NcclRank& rank, bool beside, std::string_view operation, const std::string& group, int64_t bytes,
                     int64_t number)
    : rank_(rank), beside_(beside), open_(rank.monitor_ != nullptr) {
  if (open_) rank_.monitor_->begin(beside_ ? 1 : 0, operation, group, bytes, number);
}

NcclRank::Call::~Call() {
  if (open_) rank_.monitor_->leave(beside_ ? 1 : 0);
}

void NcclRank::Call::enqueued() {
  cudaStream_t stream = rank_.stream(beside_);
  if (!open_ || is_capturing(stream)) return;
  void* mark = rank_.monitor_->mark();
  RESTKV_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(mark), stream));
  rank_.monitor_->enqueued(beside_ ? 1 : 0, mark);
  open_ = false;
}

}  // namespace detail
}  // namespace restkv
