// The implementations of Communicator that the tests of all collectives run on, one test body for all.
// A new implementation is one more entry of implementations().
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "dist/base/context.h"
#include "dist/comm/communicator.h"
#include "dist/comm/mpi_communicator.h"
#include "dist/comm/mpi_runtime.h"
#include "tests/mpi_world.h"

namespace restkv::testing_support {

struct Implementation {
  std::string name;
  Device device;
  bool folds_in_rank_order;  ///< all_reduce gives ((x0 + x1) + x2) + ..., not just the same bits everywhere
  std::function<std::unique_ptr<Communicator>()> make_world;
};

using restkv::testing::mpi_runtime;

/// The watchdog of the test groups: a deadlock of the code under test ends the program instead of the test machine.
inline constexpr double kTestTimeoutS = 60.0;

inline std::vector<Implementation> implementations(int world_size) {
  std::vector<Implementation> all;
  all.push_back({"mpi", Device::cpu, true, [] { return mpi_runtime().world(kTestTimeoutS); }});
  // Seven elements per MPI call: the paths for more than 2^31 elements, on small buffers.
  all.push_back({"mpi_in_pieces", Device::cpu, true, [] {
                   MpiOptions options;
                   options.max_count = 7;
                   return make_mpi_communicator(options);
                 }});
  all.push_back({"mpi_checked", Device::cpu, true, [] { return mpi_runtime().world(kTestTimeoutS, true); }});
  if (world_size == 1) all.push_back({"self", Device::cpu, true, [] { return make_self_communicator(); }});
  return all;
}

/// A tensor on the implementation's device with the given bytes.
inline Tensor to_device(Context& ctx, DType dtype, const std::vector<char>& bytes) {
  Tensor t = ctx.empty(dtype, {static_cast<int64_t>(bytes.size()) / size_of(dtype)});
  if (!bytes.empty()) std::memcpy(t.raw(), bytes.data(), bytes.size());
  return t;
}

inline std::vector<char> to_host(const Tensor& t) {
  const char* p = static_cast<const char*>(t.raw());
  return std::vector<char>(p, p + t.bytes());
}

}  // namespace restkv::testing_support
