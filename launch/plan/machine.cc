#include "launch/plan/machine.h"

#include <cmath>

namespace restkv {

double value_at(const Curve& curve, double x) {
  if (curve.empty()) return 1.0;
  if (x <= curve.front().first) return curve.front().second;
  for (size_t i = 1; i < curve.size(); ++i) {
    auto [x0, y0] = curve[i - 1];
    auto [x1, y1] = curve[i];
    if (x <= x1) return y0 * std::pow(y1 / y0, std::log(x / x0) / std::log(x1 / x0));
  }
  return curve.back().second;
}

// Prefill: 131,072 tokens: linear layers 687 of 799.8 TFLOP/s, attention 588, norms, rotation and activation 653 GB in
// 203 ms; attention at 32K and 4K is what those leave of 1.212 s and 0.098 s. Scoring: 0.15, 0.39 and 0.98 ms a layer
// at 4K, 32K and 128K. Decode: 15.0 GB of weights in 3.74 ms; 4.19 MB and 537 MB of rows a layer in 5.2 and 123 us; a
// step of 3.96 ms. Batches: 3.74, 3.80, 3.84, 3.94, 4.37, 5.24 ms for the products of 1 to 32 sequences.
Machine h200() {
  Machine m;
  m.name = "NVIDIA H200";
  m.source = "README.md, Measured on one H200";
  m.gemm_flops = 799.8e12;
  m.copy_bytes = 4.23e12;
  m.linear = 0.859;
  m.attention = {{4096, 0.65}, {32768, 0.715}, {131072, 0.735}};
  m.elementwise = 0.76;
  m.evict = 0.59;
  m.evict_start = 130e-6;
  m.layer_floor = 60e-6;
  m.overlap = true;
  m.read = 1.075;
  m.product_start = 2.8e-6;
  m.attention_start = 4.3e-6;
  m.step_start = 60e-6;
  m.batch = {{1, 1.0}, {2, 1.016}, {4, 1.027}, {8, 1.053}, {16, 1.168}, {32, 1.263}, {64, 1.364}};
  m.inside.bandwidth = 328e9;
  m.inside.latency = 6.9e-6;
  m.inside.hop = 1.2e-6;
  m.inside.all_reduce = {{4096, 6.9e-6}, {65536, 7.0e-6}, {1 << 20, 13.5e-6}, {1 << 24, 74e-6}, {1 << 30, 3.27e-3}};
  // allreduce_bench on two and four H200, in a graph: 16 KB to 512 KB to every other rank.
  m.inside.pushed_sum = {{16384, 3.3e-6},  {49152, 3.4e-6},  {131072, 4.1e-6},
                         {262144, 4.9e-6}, {524288, 6.4e-6}, {1572864, 12.4e-6}};
  m.inside.source =
      "two H200 over NVLink, NCCL 2.28.9 (all-reduce 4 KB 6.9 us, 64 KB 7.0, 1 MB 13.5, 16 MB 74, 1 GB 3270); 1.2 us "
      "for each further GPU by NCCL's cost model; sums of decode steps over peer memory 3.3 us at 16 KB, 6.4 at 512 KB";
  m.between.bandwidth = 45e9;
  m.between.latency = 20e-6;
  m.between.hop = 8e-6;
  m.between.source = "assumed: one 400 Gb/s adapter a GPU at 45 GB/s, 20 us, 8 us for each doubling of the nodes";
  return m;
}

}  // namespace restkv
