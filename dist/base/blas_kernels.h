// Which of its kernels OpenBLAS uses.
#pragma once

#include <string>

namespace restkv {

/// OpenBLAS chooses its kernels by the processor's model when it is loaded, and takes the oldest ones (SSE3) for models
/// newer than itself: several times slower than the processor can do. When that happened, this makes it choose again,
/// by what the processor supports. A choice in the environment (OPENBLAS_CORETYPE) stands. Call before the first
/// product; further calls do nothing. Returns the name of the kernels in use ("SkylakeX").
std::string choose_blas_kernels();

}  // namespace restkv
