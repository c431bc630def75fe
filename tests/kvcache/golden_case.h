// The golden vectors (inputs and outputs of the published ReST-KV and SnapKV code, in float32), and the comparison with
// them.
#pragma once

#include <cmath>
#include <filesystem>
#include <set>

#include "tests/kvcache/eviction_case.h"
#include "tests/read_safetensors.h"
#include "tests/tolerances.h"

namespace restkv::testing {

struct Golden {
  EvictionCase input;
  GoldenFile file;
};

inline std::vector<std::filesystem::path> golden_paths(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

inline Pooling pooling_of(const std::string& name) {
  if (name == "adaptive") return Pooling::adaptive;
  if (name == "avgpool") return Pooling::average;
  if (name == "maxpool") return Pooling::max;
  if (name == "none") return Pooling::none;
  throw std::runtime_error("unknown pooling " + name);
}

inline CacheConfig config_of(const std::map<std::string, std::string>& m) {
  CacheConfig config;
  auto is = [&](const char* key, const char* value) { return m.count(key) != 0 && m.at(key) == value; };
  config.policy = m.at("policy");
  config.granularity = Granularity::query_head;
  config.window = std::stoll(m.at("window"));
  config.budget.tokens = std::stoll(m.at("budget"));
  config.kernel_size = std::stoll(m.at("kernel_size"));
  config.pooling = pooling_of(m.at("pooling"));
  config.use_wo = is("use_wo", "True");
  config.normalize = is("use_norm", "True");
  config.temporal = is("use_ema", "True") ? TemporalSmoothing::ema : TemporalSmoothing::mean;
  config.mode = is("metric_mode", "before") ? ScoreMode::before : ScoreMode::after;
  if (m.count("alpha")) config.alpha = std::stod(m.at("alpha"));
  if (m.count("scale")) config.beta = std::stod(m.at("scale"));
  if (m.count("tau")) config.tau = std::stod(m.at("tau"));
  return config;
}

inline Golden read_case(const std::filesystem::path& path) {
  Golden golden;
  golden.file = read_golden(path.string());
  const auto& m = golden.file.metadata;
  EvictionCase& c = golden.input;
  c.name = path.stem().string();
  c.L = std::stoll(m.at("seq_len"));
  c.Hq = std::stoll(m.at("num_q_heads"));
  c.Hkv = std::stoll(m.at("num_kv_heads"));
  c.d = std::stoll(m.at("head_dim"));
  c.q = golden.file.at("q_window").f32;
  c.k = golden.file.at("k").f32;
  c.v = golden.file.at("v").f32;
  if (golden.file.has("wo")) c.wo = golden.file.at("wo").f32;
  c.config = config_of(m);
  return golden;
}

// Positions of a head that only one side keeps must have golden scores within the tolerance of the cut.
inline void compare_kept(const Golden& golden, const RankResult& result, size_t row, double tolerance,
                         const SequencePartition& partition, int rank) {
  const int64_t head = result.head[row], P = golden.input.P(),
                kept = golden.input.config.budget.tokens - golden.input.config.window;
  const float* scores = golden.file.at("scores").f32.data() + head * P;
  const int32_t* expected = golden.file.at("kept").i32.data() + head * kept;
  std::set<int64_t> theirs, ours;
  double cut = std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < kept; ++j) {
    cut = std::min(cut, static_cast<double>(scores[expected[j]]));
    if (partition.owner(expected[j]) == rank) theirs.insert(expected[j]);
  }
  for (int64_t p : result.kept[row])
    if (p < P) ours.insert(p);
  std::vector<int64_t> different;
  std::set_symmetric_difference(ours.begin(), ours.end(), theirs.begin(), theirs.end(), std::back_inserter(different));
  for (int64_t p : different)
    EXPECT_LE(std::abs(scores[p] - cut), tolerance) << golden.input.name << " head " << head << " position " << p;
}

/// This rank's part of a result; scores within `relative` of the largest.
inline void expect_golden(const Golden& golden, const RankResult& result, Communicator& sequence,
                          double relative = kScoresF32) {
  const EvictionCase& c = golden.input;
  const SequencePartition partition = c.partition(sequence.size());
  std::vector<int64_t> counts;
  for (size_t row = 0; row < result.head.size(); ++row) {
    const int64_t head = result.head[row];
    const float* scores = golden.file.at("scores").f32.data() + head * c.P();
    const double largest = std::abs(*std::max_element(scores, scores + c.P()));
    double worst = 0.0;
    if (!result.past.empty()) {
      ASSERT_EQ(result.scores[row].size(), result.past.size());
    }
    for (size_t i = 0; i < result.past.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<double>(result.scores[row][i]) - scores[result.past[i]]));
    EXPECT_LE(worst, relative * largest) << c.name << " head " << head;
    compare_kept(golden, result, row, relative * largest, partition, sequence.rank());
    counts.push_back(static_cast<int64_t>(result.kept[row].size()));
    if (golden.file.has("kernel")) {
      EXPECT_EQ(result.kernel.at(row), golden.file.at("kernel").i32[head]) << c.name << " head " << head;
      EXPECT_EQ(result.shift.at(row), golden.file.at("shift").i32[head]) << c.name << " head " << head;
    }
  }
  sequence.all_reduce(std::span<int64_t>(counts));
  for (int64_t count : counts) EXPECT_EQ(count, c.config.budget.tokens) << c.name;
}

}  // namespace restkv::testing
