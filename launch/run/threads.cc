#include "launch/run/threads.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <fstream>
#include <string>
#include <vector>

#include "launch/config/config_hash.h"

namespace restkv {
namespace {

constexpr int kWords = CPU_SETSIZE / 64;

/// What one rank tells the others: its host, and the cores it may use.
struct Place {
  uint64_t host = 0;
  std::array<uint64_t, kWords> cores{};
};

Place find_place() {
  Place place;
  char name[256] = {};
  ::gethostname(name, sizeof(name) - 1);
  place.host = fnv1a(name);
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) CPU_SET(0, &set);
  for (int i = 0; i < CPU_SETSIZE; ++i)
    if (CPU_ISSET(i, &set)) place.cores[i / 64] |= uint64_t{1} << (i % 64);
  return place;
}

int count_cores(const Place& place) {
  int n = 0;
  for (uint64_t word : place.cores) n += std::popcount(word);
  return n;
}

int64_t read_number(const std::string& path) {
  std::ifstream in(path);
  int64_t value = -1;
  if (!(in >> value)) return -1;  // also "max"
  return value;
}

int64_t meminfo_available() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  int64_t kib = 0;
  while (in >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(in, unit);
  }
  return 0;
}

}  // namespace

ThreadShare share_threads(Communicator& world) {
  Place mine = find_place();
  std::vector<Place> all(static_cast<size_t>(world.size()));
  constexpr int64_t kPlaceWords = sizeof(Place) / sizeof(uint64_t);
  world.all_gather(&mine, all.data(), kPlaceWords, DType::u64);

  Place used{mine.host, {}};
  int same_cores = 0, same_host = 0;
  for (const Place& other : all) {
    if (other.host != mine.host) continue;
    ++same_host;
    same_cores += other.cores == mine.cores;
    for (int w = 0; w < kWords; ++w) used.cores[w] |= other.cores[w];
  }
  ThreadShare share;
  share.host_ranks = same_host;
  share.host_cores = count_cores(used);
  share.threads = std::max(1, count_cores(mine) / same_cores);
  auto online = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  bool bound_apart = same_cores < same_host;
  share.wasteful = bound_apart && share.host_cores * 2 <= online;
  return share;
}

int64_t available_memory() {
  int64_t available = meminfo_available();
  for (const char* folder : {"/sys/fs/cgroup/memory.", "/sys/fs/cgroup/memory/memory."}) {
    bool unified = std::string(folder).ends_with("cgroup/memory.");
    int64_t limit = read_number(folder + std::string(unified ? "max" : "limit_in_bytes"));
    int64_t used = read_number(folder + std::string(unified ? "current" : "usage_in_bytes"));
    if (limit > 0 && used >= 0) available = std::min(available, std::max<int64_t>(0, limit - used));
  }
  return available;
}

int64_t peak_resident_bytes() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace restkv
