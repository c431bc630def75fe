#include <cstring>

#include "dist/base/lanes.h"
#include "model/ops/dispatch.h"
#include "model/ops/swiglu.h"

namespace restkv::cpu {
namespace {

RESTKV_INLINE Lanes silu_times(Lanes gate, Lanes up) { return gate / (1.0f + exp_lanes(-gate)) * up; }

RESTKV_INLINE Lanes gelu_times(Lanes gate, Lanes up) {
  Lanes twice_u = 1.5957691216f * (gate + 0.044715f * gate * gate * gate);
  return gate / (1.0f + exp_lanes(-twice_u)) * up;
}

template <class Function>
void gated(Context& ctx, const MatrixView& gate_up, const MatrixView& y, const Function& activate_times) {
  int64_t I = y.cols;
  parallel_rows(ctx, y.rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* gate = gate_up.row<float>(r);
      const float* up = gate + I;
      float* out = y.row<float>(r);
      int64_t i = 0;
      for (; i + kLanes <= I; i += kLanes)
        store_lanes(out + i, activate_times(load_lanes(gate + i), load_lanes(up + i)));
      if (i < I) {
        float g[kLanes] = {}, u[kLanes] = {}, o[kLanes];
        std::memcpy(g, gate + i, sizeof(float) * static_cast<size_t>(I - i));
        std::memcpy(u, up + i, sizeof(float) * static_cast<size_t>(I - i));
        store_lanes(o, activate_times(load_lanes(g), load_lanes(u)));
        std::memcpy(out + i, o, sizeof(float) * static_cast<size_t>(I - i));
      }
    }
  });
}

}  // namespace

void swiglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y) {
  gated(ctx, gate_up, y, [](Lanes gate, Lanes up) { return silu_times(gate, up); });
}

void geglu(Context& ctx, const MatrixView& gate_up, const MatrixView& y) {
  gated(ctx, gate_up, y, [](Lanes gate, Lanes up) { return gelu_times(gate, up); });
}

}  // namespace restkv::cpu
