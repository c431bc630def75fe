#include "launch/run/together.h"

#include <gtest/gtest.h>

#include "dist/comm/mpi_runtime.h"
#include "launch/run/threads.h"

namespace restkv {
namespace {

struct World {
  MpiRuntime mpi{nullptr, nullptr};
  std::unique_ptr<Communicator> world = mpi.world(60.0);
};

TEST(Together, GoesOnWhenNobodyFails) {
  World w;
  int ran = 0;
  run_together(*w.world, [&] { ++ran; });
  EXPECT_EQ(ran, 1);
}

/// Whichever ranks fail, all of them stop, and the lowest that failed speaks with its own words.
TEST(Together, OneMessageFromTheLowestRankThatFailed) {
  World w;
  int n = w.world->size(), me = w.world->rank();
  for (int first = 0; first < n; ++first)
    for (bool all : {false, true}) {
      bool fails = me == first || (all && me > first);
      try {
        run_together(*w.world, [&] {
          if (fails) fail_input("rank {} says no", me);
        });
        ADD_FAILURE() << "rank " << me << " went on";
      } catch (const AgreedFailure& e) {
        EXPECT_EQ(e.speaks(), me == first);
        EXPECT_EQ(e.exit_code(), 2);
        if (me == first) {
          EXPECT_EQ(std::string(e.what()), fmt::format("rank {} says no", me));
        }
      }
    }
}

TEST(Together, TheLowestTextIsEverybodys) {
  World w;
  int n = w.world->size(), me = w.world->rank();
  EXPECT_EQ(agree_on_text(*w.world, ""), "");
  for (int first = 0; first < n; ++first)
    EXPECT_EQ(agree_on_text(*w.world, me >= first ? fmt::format("rank {} cannot", me) : ""),
              fmt::format("rank {} cannot", first));
}

TEST(Together, ExitCodeIsTheSpeakersOwn) {
  World w;
  int last = w.world->size() - 1;
  try {
    run_together(*w.world, [&] {
      if (w.world->rank() == last) fail_runtime("broken");
    });
    ADD_FAILURE();
  } catch (const AgreedFailure& e) {
    EXPECT_EQ(e.exit_code(), 1);
  }
}

TEST(Together, EqualValuesAndOthers) {
  World w;
  require_equal(*w.world, 0, "zero");
  require_equal(*w.world, ~uint64_t{0}, "all bits");
  if (w.world->size() == 1) return;
  for (int odd = 0; odd < w.world->size(); ++odd)
    EXPECT_THROW(require_equal(*w.world, w.world->rank() == odd ? 7 : 8, "differ"), AgreedFailure);
}

TEST(Threads, CoresAreSharedWithTheRanksBeside) {
  World w;
  ThreadShare share = share_threads(*w.world);
  EXPECT_EQ(share.host_ranks, w.world->size());  // the tests run on one host
  EXPECT_GE(share.threads, 1);
  if (share.threads > 1) {
    EXPECT_LE(share.threads * share.host_ranks, share.host_cores);
  }
  EXPECT_GT(available_memory(), 0);
  EXPECT_GT(peak_resident_bytes(), 1 << 20);
}

}  // namespace
}  // namespace restkv
