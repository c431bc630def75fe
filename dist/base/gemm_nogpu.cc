#include "dist/base/error.h"
#include "dist/base/gemm_gpu.h"

namespace restkv {

void gemm_gpu(Context&, const MatrixView&, const MatrixView&, const MatrixView&, bool) {
  fail_runtime("gemm on a GPU: this build has no CUDA backend");
}

}  // namespace restkv
