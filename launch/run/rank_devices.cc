#include "launch/run/rank_devices.h"

#include <fmt/format.h>

#include <cstring>

namespace restkv {
namespace {

// "rank 0 (host a)"
std::string name_of(std::span<const RankDevice> ranks, size_t r) {
  return fmt::format("rank {} (host {})", r, ranks[r].host);
}

int ranks_on(std::span<const RankDevice> ranks, const char* host) {
  int n = 0;
  for (const RankDevice& rank : ranks) n += std::strcmp(rank.host, host) == 0;
  return n;
}

}  // namespace

std::string device_conflict(std::span<const RankDevice> ranks, bool by_choice) {
  for (size_t r = 1; r < ranks.size(); ++r) {
    if (ranks[r].gpu == ranks[0].gpu) continue;
    const size_t with = ranks[0].gpu ? 0 : r, without = ranks[0].gpu ? r : 0;
    return fmt::format(
        "parallel.device is {}, and {} sees {} GPU{}, but {} sees none; expected GPUs on every host of the run (and a "
        "driver and a build with CUDA there), or parallel.device: cpu",
        by_choice ? "gpu" : "auto", name_of(ranks, with), ranks[with].seen, ranks[with].seen == 1 ? "" : "s",
        name_of(ranks, without));
  }
  for (size_t r = 0; r < ranks.size(); ++r)
    for (size_t s = 0; s < r; ++s) {
      if (ranks[r].uuid[0] == '\0' || std::strcmp(ranks[r].uuid, ranks[s].uuid) != 0) continue;
      return fmt::format(
          "rank {} and rank {} of host {} would share one GPU (UUID {}): {} ranks were started there, and rank {} sees "
          "{} GPU{}; expected at most one rank per GPU: start fewer ranks on this host (mpirun --map-by ppr:N:node), "
          "let each rank see all GPUs of the host or one of its own (CUDA_VISIBLE_DEVICES), or set parallel.device: "
          "cpu",
          s, r, ranks[r].host, ranks[r].uuid, ranks_on(ranks, ranks[r].host), r, ranks[r].seen,
          ranks[r].seen == 1 ? "" : "s");
    }
  return "";
}

}  // namespace restkv
