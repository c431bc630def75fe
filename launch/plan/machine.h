// What devices and their links can do, and which part of it the engine reaches: what times are predicted from.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "dist/base/dtype.h"
#include "dist/base/tensor.h"

namespace restkv {

/// (x, y) by x, ascending, all positive; read between the points as powers of x, and level beyond the ends.
using Curve = std::vector<std::pair<double, double>>;
double value_at(const Curve& curve, double x);

/// How ranks reach each other.
struct Link {
  double bandwidth = 0.0;  ///< bytes/s that a rank receives in large collectives
  double latency = 0.0;    ///< s of a small all-reduce of two ranks
  double hop = 0.0;        ///< s that each further rank (between nodes: each doubling of the nodes) adds
  Curve all_reduce;        ///< s by bytes, two ranks; empty: latency + bytes / bandwidth
  std::string source;
  Curve pushed_sum;  ///< s of a decode step's sum over peer memory, by bytes that a rank pushes; empty: none
};

/// One rank's device, its node and the links. Shares are of the ceilings, so that a ceiling measured elsewhere (a
/// slower clock, another GPU) moves all that follows from it.
struct Machine {
  std::string name;
  std::string source;  ///< of the ceilings and shares: where each was measured
  Device device = Device::gpu;

  double gemm_flops = 0.0;  ///< FLOP/s of a large product, a rank
  double copy_bytes = 0.0;  ///< bytes/s of a copy, read and written, a rank

  // Prefill.
  double linear = 0.0;       ///< share of gemm_flops that linear layers reach
  Curve attention;           ///< share of gemm_flops that causal attention reaches (visible pairs), by keys
  double elementwise = 0.0;  ///< share of copy_bytes of norms, rotation and activation
  double evict = 0.0;        ///< share of copy_bytes of scoring
  double evict_start = 0.0;  ///< s a layer that scoring takes on the shortest prompt
  double layer_floor = 0.0;  ///< s that a layer takes at least: its kernels' launches
  bool overlap = false;      ///< K/V are gathered while queries are projected

  // Decode.
  double read = 0.0;             ///< share of copy_bytes at which weights and rows are read
  double product_start = 0.0;    ///< s of each of the four products of a layer, beside reading
  double attention_start = 0.0;  ///< s of a layer's attention, beside reading
  double step_start = 0.0;       ///< s of a step: sampling, the host's part
  Curve batch;                   ///< factor on the products by sequences in a batch

  Link inside, between;  ///< of ranks on one node; of ranks on several
};

/// The H200 as README.md measured it, with NVLink inside a node; the links between nodes are assumptions.
Machine h200();

/// What the JSON lines of a `restkv bench` tell: ceilings and links of its last run, and shares from its points on one
/// rank (phases of prefills of several lengths, decode steps over several cache sizes). On GPUs what the file does not
/// tell is taken from h200(). Throws InputError for a file that cannot be read, for one of the other device, and on
/// CPUs for one without a point on one rank.
Machine read_machine(const std::string& path, Device device);

}  // namespace restkv
