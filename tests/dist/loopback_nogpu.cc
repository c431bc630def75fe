#include "dist/base/error.h"
#include "tests/dist/loopback_communicator.h"

namespace restkv::testing {

std::unique_ptr<LoopbackDevice> make_loopback_gpu(Context&) {
  fail_runtime("ranks on a GPU: this build has no CUDA backend");
}

}  // namespace restkv::testing
