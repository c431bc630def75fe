// A program outside the repository: uses one thing of each folder of the installed library.
#include <fmt/core.h>

#include "dist/base/context.h"
#include "dist/base/gemm.h"
#include "kvcache/config.h"
#include "launch/version.h"
#include "model/config.h"

int main() {
  restkv::Context context({.device = restkv::Device::cpu, .threads = 1});
  const float row[2] = {3.0f, 4.0f};
  float product = 0.0f;
  restkv::gemv(context, {row, 1, 2}, {row, 1, 2}, {&product, 1, 1});
  if (product != 25.0f) return 1;

  restkv::CacheConfig cache;
  cache.budget.fraction = 0.1;
  restkv::ModelConfig model;
  model.vocab = 2;
  model.hidden = 4;
  fmt::print("restkv {}: kept {} of 256, at least {} weights\n", restkv::version(), cache.budget.resolve(256),
             model.parameters());
  return 0;
}
