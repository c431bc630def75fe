// Calls of a group as a phase of their own: results are the group's, times go where they belong.
#include "dist/comm/phased_communicator.h"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>
#include <vector>

#include "dist/base/activity.h"
#include "tests/mpi_world.h"

namespace restkv {
namespace {

std::vector<std::string> names_of(const std::vector<PhaseTime>& phases) {
  std::vector<std::string> names;
  for (const PhaseTime& p : phases) names.push_back(p.name);
  return names;
}

class Phased : public ::testing::Test {
 protected:
  // What a run shows where there is someone to exchange with.
  std::vector<std::string> with_exchange(std::vector<std::string> names) const {
    if (world->size() > 1) names.insert(names.begin() + 1, "exchange");
    return names;
  }

  std::unique_ptr<Communicator> world = testing::mpi_runtime().world(30);
  Context ctx{Context::Options{Device::cpu, 1}};
  PhasedCommunicator group{*world, "exchange"};
};

TEST_F(Phased, PassesCallsOn) {
  EXPECT_EQ(group.rank(), world->rank());
  EXPECT_EQ(group.size(), world->size());
  const int64_t n = world->size();
  const CommStats before = world->stats();
  int64_t sum = world->rank() + 1, root = world->rank();
  group.all_reduce(&sum, 1, DType::i64, ReduceOp::sum);
  EXPECT_EQ(sum, n * (n + 1) / 2);
  std::vector<int32_t> all(static_cast<size_t>(n)), want(all.size());
  std::iota(want.begin(), want.end(), 0);
  const int32_t mine = world->rank();
  group.all_gather(&mine, all.data(), 1, DType::i32);
  EXPECT_EQ(all, want);
  std::vector<int64_t> ones(static_cast<size_t>(n), 1), places(ones.size());
  std::iota(places.rbegin(), places.rend(), 0);
  group.all_gather_v(&mine, all.data(), ones, places, DType::i32);
  EXPECT_EQ(all, std::vector<int32_t>(want.rbegin(), want.rend()));
  group.broadcast(&root, 1, DType::i64, group.size() - 1);
  EXPECT_EQ(root, n - 1);
  int32_t from = -1;
  group.send_recv(&mine, 1, (mine + 1) % group.size(), &from, 1, (mine + group.size() - 1) % group.size(), DType::i32);
  EXPECT_EQ(from, (mine + group.size() - 1) % group.size());
  group.barrier();
  EXPECT_GT(world->stats().calls, before.calls);  // counted where the calls are made
  EXPECT_EQ(group.stats().calls, 0);
  EXPECT_EQ(group.split(0, group.rank(), "part")->size(), group.size());
}

TEST_F(Phased, CallsAreAPhase) {
  PhaseClock clock(ctx);
  clock.start("work");
  int64_t x = 1;
  group.all_reduce(&x, 1, DType::i64, ReduceOp::sum);  // no clock yet
  group.set_clock(&clock);
  group.all_reduce(&x, 1, DType::i64, ReduceOp::sum);
  EXPECT_STREQ(clock.current(), "work");
  const auto ticket = group.beside([&] {
    group.all_reduce(&x, 1, DType::i64, ReduceOp::sum);
    // What a message of a failed call would name.
    EXPECT_STREQ(activity().step, "work");
  });
  group.join(ticket.get());
  EXPECT_STREQ(clock.current(), "work");
  EXPECT_STREQ(activity().step, "work");
  clock.start("rest");
  group.set_clock(nullptr);
  group.barrier();
  EXPECT_STREQ(clock.current(), "rest");
  const std::vector<PhaseTime> phases = clock.finish();
  EXPECT_EQ(names_of(phases), with_exchange({"work", "rest"}));
  for (const PhaseTime& p : phases) EXPECT_GE(p.seconds, 0.0) << p.name;
}

TEST_F(Phased, AnErrorKeepsItsPlace) {
  PhaseClock clock(ctx);
  clock.start("work");
  group.set_clock(&clock);
  EXPECT_THROW(group.beside([]() { throw std::runtime_error("no"); }), std::runtime_error);
  EXPECT_STREQ(activity().step, "work");
  clock.stop();
}

}  // namespace
}  // namespace restkv
