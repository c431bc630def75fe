#include "dist/base/error.h"
#include "model/weights/random_fill.h"

namespace restkv::gpu {

void random_fill(Context&, const RandomElements&, DType, void*) {
  fail_runtime("random weights on a GPU: this build has no CUDA backend");
}

}  // namespace restkv::gpu
