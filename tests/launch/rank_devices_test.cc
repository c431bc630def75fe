// Which devices of ranks fit together, and what the user is told when they do not.
#include "launch/run/rank_devices.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace restkv {
namespace {

RankDevice rank_on(const std::string& host, int64_t seen, const std::string& uuid = "") {
  RankDevice rank;
  rank.gpu = seen > 0;
  rank.seen = seen;
  host.copy(rank.host, sizeof(rank.host) - 1);
  uuid.copy(rank.uuid, sizeof(rank.uuid) - 1);
  return rank;
}

void expect_words(const std::string& text, const std::vector<std::string>& words) {
  for (const std::string& w : words) EXPECT_NE(text.find(w), std::string::npos) << w << " is not in: " << text;
}

TEST(RankDevices, OneKindAndOneGpuPerRankFit) {
  EXPECT_EQ(device_conflict(std::vector{rank_on("a", 0)}, false), "");
  EXPECT_EQ(device_conflict(std::vector{rank_on("a", 0), rank_on("a", 0), rank_on("b", 0)}, false), "");
  EXPECT_EQ(device_conflict(std::vector{rank_on("a", 2), rank_on("a", 2)}, false), "") << "UUIDs are not known yet";
  EXPECT_EQ(device_conflict(std::vector{rank_on("a", 2, "aa"), rank_on("a", 2, "bb"), rank_on("b", 1, "cc")}, true),
            "");
  // Each rank sees one GPU of its own.
  EXPECT_EQ(device_conflict(std::vector{rank_on("a", 1, "aa"), rank_on("a", 1, "bb")}, true), "");
}

TEST(RankDevices, MixedDevicesNameBothHosts) {
  std::string text = device_conflict(std::vector{rank_on("login", 0), rank_on("login", 0), rank_on("node7", 4)}, false);
  expect_words(text, {"parallel.device is auto", "rank 2 (host node7) sees 4 GPUs", "rank 0 (host login) sees none",
                      "parallel.device: cpu"});
  text = device_conflict(std::vector{rank_on("node7", 1), rank_on("login", 0)}, true);
  expect_words(text, {"parallel.device is gpu", "rank 0 (host node7) sees 1 GPU,", "rank 1 (host login) sees none"});
}

TEST(RankDevices, TwoRanksOnOneGpuNameItAndWhatToDo) {
  std::string text =
      device_conflict(std::vector{rank_on("n", 2, "aa"), rank_on("n", 2, "bb"), rank_on("n", 2, "aa")}, true);
  expect_words(text, {"rank 0 and rank 2 of host n would share one GPU (UUID aa)", "3 ranks were started there",
                      "rank 2 sees 2 GPUs", "one rank per GPU", "--map-by ppr:N:node"});
}

}  // namespace
}  // namespace restkv
