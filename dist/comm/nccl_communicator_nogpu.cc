#include "dist/base/error.h"
#include "dist/comm/nccl_communicator.h"

namespace restkv {

std::unique_ptr<Communicator> make_nccl_communicator(Context&, Communicator&, const NcclOptions&) {
  fail_input("a group of GPU ranks was asked for, but this build has no CUDA backend");
}

}  // namespace restkv
