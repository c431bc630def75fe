// The implementations of Communicator that the tests of all collectives run on, one test body for all.
// A new implementation is one more entry of cpu_implementations() or gpu_implementations().
#pragma once

#include <gtest/gtest.h>
#include <mpi.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dist/base/context.h"
#include "dist/base/error.h"
#include "dist/comm/checked_communicator.h"
#include "dist/comm/communicator.h"
#include "dist/comm/mpi_communicator.h"
#include "dist/comm/mpi_runtime.h"
#include "dist/comm/nccl_communicator.h"
#include "tests/mpi_world.h"

namespace restkv::testing_support {

struct Implementation {
  std::string name;
  Device device;
  bool folds_in_rank_order;  ///< all_reduce gives ((x0 + x1) + x2) + ..., not just the same bits everywhere
  std::function<std::unique_ptr<Communicator>(Context&)> make_world;
};

using restkv::testing::mpi_runtime;

/// The deadline of the test groups: a deadlock of the code under test ends the program instead of the test machine.
inline constexpr double kTestTimeoutS = 60.0;

inline NcclOptions nccl_options() {
  NcclOptions options;
  options.timeout_s = kTestTimeoutS;
  options.on_expired = [](const std::string&) { MpiRuntime::end_all_ranks(1); };
  return options;
}

inline std::vector<Implementation> gpu_implementations() {
  std::vector<Implementation> all;
  all.push_back({"nccl", Device::gpu, false, [](Context& ctx) {
                   return make_nccl_communicator(ctx, *mpi_runtime().world(kTestTimeoutS), nccl_options());
                 }});
  // What groups of many hosts do.
  all.push_back({"nccl_by_broadcasts", Device::gpu, false, [](Context& ctx) {
                   NcclOptions options = nccl_options();
                   options.direct_ranks = 1;
                   return make_nccl_communicator(ctx, *mpi_runtime().world(kTestTimeoutS), options);
                 }});
  all.push_back({"nccl_checked", Device::gpu, false, [](Context& ctx) {
                   auto host = mpi_runtime().world(kTestTimeoutS);
                   auto world = make_nccl_communicator(ctx, *host, nccl_options());
                   return make_checked_communicator(std::move(world), std::move(host));
                 }});
  return all;
}

inline std::vector<Implementation> cpu_implementations(int world_size) {
  std::vector<Implementation> all;
  all.push_back({"mpi", Device::cpu, true, [](Context&) { return mpi_runtime().world(kTestTimeoutS); }});
  // Seven elements per MPI call: the paths for more than 2^31 elements, on small buffers.
  all.push_back({"mpi_in_pieces", Device::cpu, true, [](Context&) {
                   MpiOptions options;
                   options.max_count = 7;
                   return make_mpi_communicator(options);
                 }});
  all.push_back({"mpi_checked", Device::cpu, true, [](Context&) { return mpi_runtime().world(kTestTimeoutS, true); }});
  if (world_size == 1) all.push_back({"self", Device::cpu, true, [](Context&) { return make_self_communicator(); }});
  return all;
}

struct Group {
  std::unique_ptr<Context> ctx;
  std::unique_ptr<Communicator> world;  // ends before its context
};

/// The groups of GPU ranks are made once per program: NCCL takes seconds to start. They end before MPI does.
class GpuGroups : public ::testing::Environment {
 public:
  static std::map<std::string, std::shared_ptr<Group>>& all() {
    static std::map<std::string, std::shared_ptr<Group>> groups;
    return groups;
  }
  void TearDown() override { all().clear(); }
};
inline auto* const kGpuGroups = ::testing::AddGlobalTestEnvironment(new GpuGroups);

/// Why the ranks cannot have a device each; empty when they can. The same answer on all ranks. Collective.
inline std::string unavailable(Device device) {
  if (device == Device::cpu) return "";
  int missing = mpi_runtime().local_size() - GpuRuntime::count(), most = 0;
  MPI_Allreduce(&missing, &most, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  return most <= 0 ? "" : fmt::format("a host has {} GPUs fewer than ranks", most);
}

/// A new group; on GPUs the one of this name. Collective.
inline std::shared_ptr<Group> group_of(const Implementation& implementation) {
  const bool gpu = implementation.device == Device::gpu;
  if (gpu && GpuGroups::all().contains(implementation.name)) return GpuGroups::all()[implementation.name];
  auto group = std::make_shared<Group>();
  group->ctx = std::make_unique<Context>(Context::Options{implementation.device, 1, mpi_runtime().local_rank()});
  group->world = implementation.make_world(*group->ctx);
  if (gpu) GpuGroups::all()[implementation.name] = group;
  return group;
}

/// A tensor on the context's device with the given bytes.
inline Tensor to_device(Context& ctx, DType dtype, const std::vector<char>& bytes) {
  return ctx.to_device(bytes.data(), dtype, {static_cast<int64_t>(bytes.size()) / size_of(dtype)});
}

inline std::vector<char> to_host(const Context& ctx, const Tensor& t) {
  std::vector<char> bytes(static_cast<size_t>(t.bytes()));
  ctx.to_host(t.raw(), bytes.data(), t.bytes());
  return bytes;
}

}  // namespace restkv::testing_support
