// Rows at home in host memory that a computation visits chunk by chunk: nothing is lost on the way, on either device.
#include "model/host_residual.h"

#include <gtest/gtest.h>

#include "dist/base/error.h"
#include "model/ops/add.h"
#include "tests/gpu_test.h"

namespace restkv {
namespace {

// Every visit of a pass that changes rows adds one to them, slowed by work that stands before the addition.
void expect_visits_add_up(Context& ctx, int64_t L, int64_t chunk, int64_t H, int64_t work) {
  SCOPED_TRACE(fmt::format("{} rows of {} in chunks of {}", L, H, chunk));
  const SequencePartition partition(L, 1);
  const auto chunks = prefill_chunks(partition, 0, chunk);
  constexpr int64_t kPasses = 9;
  HostResidual residual(ctx, host_rows(ctx, L, H), chunks, kPasses);
  std::vector<float> first(static_cast<size_t>(L * H)), ones(static_cast<size_t>(chunk * H), 1.0f);
  for (size_t i = 0; i < first.size(); ++i) first[i] = static_cast<float>(i % 65521);
  const Tensor start = ctx.to_device(first.data(), DType::f32, {L, H});
  const Tensor one = ctx.to_device(ones.data(), DType::f32, {chunk, H});
  const Tensor elsewhere = ctx.zeros(DType::f32, {work, H}), terms = ctx.zeros(DType::f32, {work, H});
  for (int64_t pass = 0; pass < kPasses; ++pass)
    for (const PrefillPart& piece : chunks) {
      const Tensor rows = residual.enter();
      ASSERT_EQ(rows.size(0), piece.rows);
      if (work > 0) add(ctx, MatrixView(elsewhere), MatrixView(terms));
      if (pass == 0)
        ctx.copy(rows.raw(), start.rows(piece.first, piece.rows).raw(), rows.bytes());
      else if (pass % 2 == 0)  // as a layer's second pass
        add(ctx, MatrixView(rows), MatrixView(one).block(0, piece.rows, 0, H));
      residual.leave(/*changed=*/pass % 2 == 0);
    }
  const Tensor row = ctx.empty(DType::f32, {1, H});
  for (int64_t local : {int64_t{0}, L / 2, L - 1}) {
    residual.fetch_row(local, row);
    const auto got = ctx.to_host<float>(row);
    for (int64_t c = 0; c < H; ++c)
      ASSERT_EQ(got[c], first[local * H + c] + 4.0f) << "row " << local << ", column " << c;
  }
  EXPECT_THROW(residual.enter(), RuntimeFailure);  // all visits are made
}

TEST(HostResidual, VisitsAddUpOnTheCpu) {
  Context ctx({Device::cpu, 1});
  for (int64_t L : {129, 256, 300, 1000}) expect_visits_add_up(ctx, L, 128, 20, 0);
  EXPECT_THROW(HostResidual(ctx, host_rows(ctx, 100, 8), prefill_chunks(SequencePartition(100, 1), 0, 128), 3),
               RuntimeFailure);  // one chunk has nowhere to go
}

class HostResidualGpu : public testing::GpuTest {};

TEST_F(HostResidualGpu, VisitsAddUp) {
  // Copies that take longer than the computation, and the other way round; two chunks, and many.
  for (int64_t work : {0, 20000})
    for (int64_t L : {129, 1000, 9000, 33000}) expect_visits_add_up(*gpu, L, L < 2000 ? 128 : 4096, 1024, work);
}

}  // namespace
}  // namespace restkv
