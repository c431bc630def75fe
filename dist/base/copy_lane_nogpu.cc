#include "dist/base/copy_lane.h"
#include "dist/base/error.h"

namespace restkv {

std::unique_ptr<CopyLane> gpu::make_copy_lane(Context&) {
  fail_runtime("copies to a GPU: this build has no CUDA backend");
}

}  // namespace restkv
