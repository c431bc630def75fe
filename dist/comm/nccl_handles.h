// The NCCL side of a Communicator, for *_gpu.cu files.
#pragma once

#include <nccl.h>

#include <string>

#include "dist/base/error.h"
#include "dist/comm/communicator.h"

namespace restkv {

namespace detail {
[[noreturn]] void nccl_failed(const char* call, const char* file, int line, ncclResult_t status);
}  // namespace detail

#define RESTKV_NCCL_CHECK(call)                                             \
  do {                                                                      \
    if (ncclResult_t status_ = (call); status_ != ncclSuccess) [[unlikely]] \
      ::restkv::detail::nccl_failed(#call, __FILE__, __LINE__, status_);    \
  } while (0)

/// NCCL's communicator of a group that make_nccl_communicator or a split of it made; null for a group of one rank.
/// World, sequence and tensor group share one where they are the same ranks. Throws RuntimeFailure for other groups
/// (checked_communicator.h included).
ncclComm_t nccl_comm_of(const Communicator& group);

}  // namespace restkv
