#include <algorithm>
#include <utility>

#include "dist/base/gemm_gpu.h"
#include "dist/base/gpu_handles.h"

namespace restkv {
namespace {

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: fail_runtime("gemm on a GPU: no version for {}", name_of(dtype));
  }
}

// One product's descriptors and the algorithm that cuBLASLt's heuristics put first for it.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  ~Plan() {
    cublasLtMatrixLayoutDestroy(y);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(w);
    cublasLtMatmulDescDestroy(operation);
  }
};

// Rows that the algorithm is chosen for. From a tile on it is one for every number of rows up to a full slice of the
// prefill: other algorithms may sum in another order, and how many rows the last slice of a chunk has depends on the
// layout, on which a row's bits must not.
int64_t rows_to_choose_for(int64_t rows) {
  constexpr int64_t kFullSlice = 4096;
  return rows < kGemmTileRows ? rows : std::max(rows, kFullSlice);
}

// cuBLASLt thinks in columns: our row-major y [m, n] is its y^T [n, m], so y^T = w x^T with w and x as they lie.
std::shared_ptr<Plan> make_plan(const Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y) {
  auto plan = std::make_shared<Plan>();
  RESTKV_CUBLAS_CHECK(cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  cublasOperation_t transpose = CUBLAS_OP_T;
  RESTKV_CUBLAS_CHECK(
      cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose)));
  auto layout = [](cublasLtMatrixLayout_t* out, const MatrixView& m) {
    RESTKV_CUBLAS_CHECK(cublasLtMatrixLayoutCreate(out, cuda_type(m.dtype), static_cast<uint64_t>(m.cols),
                                                   static_cast<uint64_t>(m.rows), m.ld));
  };
  auto describe_rows = [&](int64_t rows) {
    for (cublasLtMatrixLayout_t* old : {&plan->x, &plan->y})
      if (*old != nullptr) cublasLtMatrixLayoutDestroy(std::exchange(*old, nullptr));
    layout(&plan->x, {x.data, x.dtype, rows, x.cols, x.ld});
    layout(&plan->y, {y.data, y.dtype, rows, y.cols, y.ld});
  };
  layout(&plan->w, w);

  size_t workspace_bytes = 0;
  blas_workspace_of(ctx, &workspace_bytes);
  cublasLtMatmulPreference_t preference;
  RESTKV_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
  RESTKV_CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                           &workspace_bytes, sizeof(workspace_bytes)));
  cublasLtMatmulHeuristicResult_t found{}, checked{};
  int count = 0;
  auto choose = [&](int64_t rows) {
    describe_rows(rows);
    return cublasLtMatmulAlgoGetHeuristic(cublaslt_of(ctx), plan->operation, plan->w, plan->x, plan->y, plan->y,
                                          preference, 1, &found, &count);
  };
  const int64_t chosen_for = rows_to_choose_for(x.rows);
  cublasStatus_t status = choose(chosen_for);
  if (chosen_for != x.rows) {
    describe_rows(x.rows);
    const bool fits = status == CUBLAS_STATUS_SUCCESS && count > 0 &&
                      cublasLtMatmulAlgoCheck(cublaslt_of(ctx), plan->operation, plan->w, plan->x, plan->y, plan->y,
                                              &found.algo, &checked) == CUBLAS_STATUS_SUCCESS &&
                      checked.workspaceSize <= workspace_bytes;
    if (!fits) status = choose(x.rows);
  }
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0)
    fail_runtime("cuBLASLt has no algorithm for {} [{}, {}] x {} [{}, {}]: {}", name_of(x.dtype), x.rows, x.cols,
                 name_of(w.dtype), w.rows, w.cols, cublasGetStatusString(status));
  plan->algorithm = found.algo;
  return plan;
}

}  // namespace

void gemm_gpu(Context& ctx, const MatrixView& x, const MatrixView& w, const MatrixView& y, bool accumulate) {
  std::string key = fmt::format("gemm {} {} {} {} {} {} {} {}", static_cast<int>(x.dtype), static_cast<int>(y.dtype),
                                x.rows, x.cols, w.rows, x.ld, w.ld, y.ld);
  std::shared_ptr<void>& slot = plan_slot(ctx, key);
  if (!slot) slot = make_plan(ctx, x, w, y);
  const Plan& plan = *static_cast<const Plan*>(slot.get());
  size_t workspace_bytes = 0;
  void* workspace = blas_workspace_of(ctx, &workspace_bytes);
  const float alpha = 1.0f, beta = accumulate ? 1.0f : 0.0f;
  RESTKV_CUBLAS_CHECK(cublasLtMatmul(cublaslt_of(ctx), plan.operation, &alpha, w.data, plan.w, x.data, plan.x, &beta,
                                     y.data, plan.y, y.data, plan.y, &plan.algorithm, workspace, workspace_bytes,
                                     stream_of(ctx)));
}

}  // namespace restkv
