// Which device's version of an op runs.
#pragma once

#include <initializer_list>

#include "dist/base/context.h"
#include "dist/base/error.h"

namespace restkv {

inline bool on_gpu(const Context& ctx) { return ctx.device() == Device::gpu; }

/// For ops that have only a CPU version, in f32: a clear error instead of a wrong memory access.
inline void require_cpu_f32(const Context& ctx, const char* op, std::initializer_list<DType> dtypes) {
  RESTKV_CHECK(ctx.device() == Device::cpu, "{} has no version for {}", op, name_of(ctx.device()));
  for (DType dtype : dtypes) RESTKV_CHECK(dtype == DType::f32, "{} has no version for {}", op, name_of(dtype));
}

/// Rows that one thread takes at a time in row-wise ops.
inline constexpr int64_t kRowsPerItem = 32;

/// Calls body(first, last) over [0, n) in runs of kRowsPerItem, in parallel.
template <class Body>
void parallel_rows(Context& ctx, int64_t n, const Body& body) {
  ctx.parallel_for((n + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item) {
    int64_t first = item * kRowsPerItem;
    body(first, first + kRowsPerItem < n ? first + kRowsPerItem : n);
  });
}

}  // namespace restkv
