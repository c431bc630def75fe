// The GPU side of gemm.h; checked shapes, at least one row and one output.
#pragma once

#include "dist/base/gemm.h"

namespace restkv {

void gemm_gpu(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate);

}  // namespace restkv
