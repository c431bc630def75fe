// The CPU side of gemm.h; checked arguments, at least one row and one output.
#pragma once

#include "dist/base/gemm.h"

namespace restkv {

void gemm_cpu(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate);
void gemv_cpu(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate);

}  // namespace restkv
