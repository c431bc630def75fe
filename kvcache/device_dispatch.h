// Which twin of an op runs. Ops call need_cpu() until they have a GPU twin, so that none silently does nothing.
#pragma once

#include "dist/base/error.h"
#include "dist/base/gemm.h"

namespace restkv {

inline void need_cpu(const Context& ctx, const char* op) {
  if (ctx.device() != Device::cpu) fail_runtime("{} has no {} version in this build", op, name_of(ctx.device()));
}

/// The elements of rows that a CPU op takes: dense and f32.
inline const float* dense_f32(const char* op, const MatrixView& rows) {
  RESTKV_CHECK(rows.data == nullptr || (rows.dtype == DType::f32 && rows.ld == rows.cols),
               "{}: rows of {} elements, {} apart, of {}; dense f32 needed", op, rows.cols, rows.ld,
               name_of(rows.dtype));
  return static_cast<const float*>(rows.data);
}

}  // namespace restkv
