// ProcessGrid and gather_rows on real groups; what the runtime knows of its start.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "dist/base/error.h"
#include "dist/comm/gather_rows.h"
#include "dist/comm/mpi_runtime.h"
#include "dist/comm/process_grid.h"
#include "tests/dist/communicator_factories.h"

namespace restkv {
namespace {

using restkv::testing::mpi_runtime;

std::unique_ptr<Communicator> world() { return mpi_runtime().world(testing_support::kTestTimeoutS); }

TEST(ProcessGrid, EveryLayoutOfThisWorld) {
  const int n = mpi_runtime().size();
  for (int sequence = 1; sequence <= n; ++sequence) {
    if (n % sequence != 0) continue;
    ProcessGrid grid(world(), sequence, n / sequence);
    EXPECT_EQ(grid.sequence_size(), sequence);
    EXPECT_EQ(grid.tensor_size(), n / sequence);
    EXPECT_EQ(grid.rank(), grid.sequence_rank() * grid.tensor_size() + grid.tensor_rank());
    EXPECT_EQ(grid.size(), n);
    EXPECT_EQ(grid.is_root(), mpi_runtime().rank() == 0);
    EXPECT_EQ(grid.sequence().name(), "sequence");
    EXPECT_EQ(grid.tensor().name(), "tensor");

    std::vector<int32_t> peers(grid.sequence_size());
    int32_t own = grid.rank();
    grid.sequence().all_gather(&own, peers.data(), 1, DType::i32);
    for (int s = 0; s < grid.sequence_size(); ++s)
      EXPECT_EQ(peers[s], s * grid.tensor_size() + grid.tensor_rank()) << "same heads, other tokens";
    peers.resize(grid.tensor_size());
    grid.tensor().all_gather(&own, peers.data(), 1, DType::i32);
    for (int t = 0; t < grid.tensor_size(); ++t)
      EXPECT_EQ(peers[t], grid.sequence_rank() * grid.tensor_size() + t) << "same tokens, other heads";
  }
}

std::string grid_error(int sequence, int tensor) {
  try {
    ProcessGrid grid(world(), sequence, tensor);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

TEST(ProcessGrid, SizesThatDoNotFitSayWhatWould) {
  const int n = mpi_runtime().size();
  std::string text = grid_error(n + 1, 2);
  EXPECT_NE(text.find(fmt::format("sequence {} x tensor 2 needs {} ranks", n + 1, 2 * n + 2)), std::string::npos)
      << text;
  EXPECT_NE(text.find(fmt::format("mpirun -np {}", 2 * n + 2)), std::string::npos) << text;
  EXPECT_NE(text.find(fmt::format("1 x {}", n)), std::string::npos) << text;
  EXPECT_NE(text.find(fmt::format("{} {} started", n, n == 1 ? "was" : "were")), std::string::npos) << text;
  EXPECT_NE(grid_error(0, n), "");
  EXPECT_NE(grid_error(-1, -n), "");
  EXPECT_NE(grid_error(1 << 30, 1 << 30), "");
}

TEST(MpiRuntime, KnowsItsPlace) {
  auto group = world();
  EXPECT_EQ(mpi_runtime().rank(), group->rank());
  EXPECT_EQ(mpi_runtime().size(), group->size());
  EXPECT_EQ(mpi_runtime().local_size(), mpi_runtime().size()) << "these tests run on one host";
  EXPECT_EQ(mpi_runtime().local_rank(), mpi_runtime().rank());
}

TEST(MpiRuntime, StartsThatMpiDoesNotSeeAreRefused) {
  auto check = [](int size, std::map<std::string, std::string> variables) {
    check_started_size(size, [&](const char* name) -> const char* {
      auto it = variables.find(name);
      return it == variables.end() ? nullptr : it->second.c_str();
    });
  };
  EXPECT_NO_THROW(check(1, {}));
  EXPECT_NO_THROW(check(4, {{"OMPI_COMM_WORLD_SIZE", "4"}}));
  EXPECT_NO_THROW(check(4, {{"OMPI_COMM_WORLD_SIZE", "4"}, {"SLURM_STEP_NUM_TASKS", "2"}})) << "mpirun under srun";
  EXPECT_NO_THROW(check(1, {{"SLURM_NTASKS", "8"}})) << "one process inside a batch script";
  EXPECT_THROW(check(1, {{"OMPI_COMM_WORLD_SIZE", "4"}}), InputError);
  EXPECT_THROW(check(1, {{"PMI_SIZE", "2"}}), InputError);
  try {
    check(1, {{"SLURM_STEP_NUM_TASKS", "8"}});
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("8 processes were started"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("srun --mpi=pmix"), std::string::npos) << e.what();
  }
}

// Row of position p: elements p * 1000 + e, so that each place is told apart.
void check_gather(Communicator& group, int64_t L, int64_t block, Range range, int64_t row_elements) {
  SequencePartition partition(L, group.size(), block);
  std::vector<int64_t> local(partition.local_size(group.rank()) * row_elements);
  for (int64_t i = 0; i < partition.local_size(group.rank()); ++i)
    for (int64_t e = 0; e < row_elements; ++e)
      local[i * row_elements + e] = partition.global_position(group.rank(), i) * 1000 + e;
  std::vector<int64_t> global(range.size() * row_elements + 1, -1);
  gather_rows(group, partition, range, local.data(), global.data(), row_elements, DType::i64);
  for (int64_t i = 0; i < range.size(); ++i)
    for (int64_t e = 0; e < row_elements; ++e)
      ASSERT_EQ(global[i * row_elements + e], (range.begin + i) * 1000 + e)
          << "L " << L << " block " << block << " range " << range.begin << " " << range.end;
  ASSERT_EQ(global.back(), -1) << "written past the end";
}

TEST(GatherRows, RandomLengthsAndRanges) {
  auto group = world();
  std::mt19937 random(11);
  for (int i = 0; i < 200; ++i) {
    int64_t L = 1 + random() % 700, block = 1 + random() % 40;
    int64_t begin = random() % (L + 1), end = begin + random() % (L - begin + 1);
    check_gather(*group, L, block, i % 4 == 0 ? Range{0, L} : Range{begin, end}, 1 + random() % 5);
  }
  check_gather(*group, 1, 128, {0, 1}, 3);
  check_gather(*group, 5000, 128, {0, 5000}, 2);
  check_gather(*group, 300, 128, {300, 300}, 2);
}

TEST(GatherRows, HalfPrecisionRowsAndSubGroups) {
  auto all = world();
  auto group = all->split(all->rank() % 2, all->rank(), "sequence");
  SequencePartition partition(1000, group->size());
  std::vector<bf16> local(partition.local_size(group->rank()));
  for (size_t i = 0; i < local.size(); ++i)
    local[i].bits = static_cast<uint16_t>(partition.global_position(group->rank(), i));
  std::vector<bf16> global(500);
  gather_rows(*group, partition, {400, 900}, local.data(), global.data(), 1, DType::bf16);
  for (int i = 0; i < 500; ++i) ASSERT_EQ(global[i].bits, 400 + i);
}

TEST(GatherRows, WrongArgumentsAreRefused) {
  auto group = world();
  SequencePartition other(100, group->size() + 1), own(100, group->size());
  EXPECT_THROW(gather_rows(*group, other, {0, 100}, nullptr, nullptr, 1, DType::f32), RuntimeFailure);
  EXPECT_THROW(gather_rows(*group, own, {0, 101}, nullptr, nullptr, 1, DType::f32), RuntimeFailure);
}

}  // namespace
}  // namespace restkv
