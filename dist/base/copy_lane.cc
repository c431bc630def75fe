#include "dist/base/copy_lane.h"

#include <algorithm>
#include <cstring>

namespace restkv {
namespace {

class HostLane final : public CopyLane {
 public:
  void follow() override {}
  void to_device(void* device, const void* host, int64_t bytes) override { copy(device, host, bytes); }
  void to_host(void* host, const void* device, int64_t bytes) override { copy(host, device, bytes); }
  std::shared_ptr<void> mark() override { return nullptr; }
  void join(const void*) override {}

 private:
  static void copy(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
};

}  // namespace

std::unique_ptr<CopyLane> make_copy_lane(Context& ctx) {
  if (ctx.device() == Device::gpu) return gpu::make_copy_lane(ctx);
  return std::make_unique<HostLane>();
}

Tensor host_rows(Context& ctx, int64_t rows, int64_t cols) {
  if (ctx.gpu() == nullptr) return ctx.empty(DType::f32, {rows, cols});
  const int64_t bytes = std::max<int64_t>(rows * cols * size_of(DType::f32), 1);
  return Tensor::own(ctx.gpu()->allocate_pinned(bytes), DType::f32, {rows, cols}, Device::cpu);
}

}  // namespace restkv
