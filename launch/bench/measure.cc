#include "launch/bench/measure.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <sstream>

#include "dist/base/activity.h"
#include "dist/base/error.h"
#include "dist/base/mix.h"
#include "dist/base/stopwatch.h"
#include "launch/results/record.h"
#include "launch/run/together.h"
#include "model/decode_batch.h"

namespace restkv {
namespace {

double slowest(Communicator& world, double seconds) {
  world.all_reduce(&seconds, 1, DType::f64, ReduceOp::max);
  return seconds;
}

int64_t bytes_sent(const ProcessGrid& grid) {
  return grid.world().stats().bytes_sent + grid.sequence().stats().bytes_sent + grid.tensor().stats().bytes_sent;
}

/// The phases of rank 0, which has rows of every prompt; of a prompt shorter than a chunk others have none, and not
/// all of the phases.
void align_phases(Communicator& world, std::vector<PhaseTime>& phases) {
  std::string names;
  for (const PhaseTime& p : phases) names += p.name + "\n";
  std::istringstream all(agree_on_text(world, names));
  std::vector<PhaseTime> aligned;
  for (std::string name; std::getline(all, name);) {
    aligned.push_back({name, 0.0, 0, 0.0});
    for (const PhaseTime& p : phases)
      if (p.name == name) aligned.back() = p;
  }
  phases = aligned;
}

/// The slowest and the fastest rank's time and all ranks' bytes of every phase.
void combine(Communicator& world, std::vector<PhaseTime>& phases) {
  align_phases(world, phases);
  std::vector<double> seconds, least;
  std::vector<int64_t> bytes;
  for (const PhaseTime& p : phases) {
    seconds.push_back(p.seconds);
    bytes.push_back(p.bytes);
  }
  least = seconds;
  world.all_reduce(std::span<double>(seconds), ReduceOp::max);
  world.all_reduce(std::span<double>(least), ReduceOp::min);
  world.all_reduce(std::span<int64_t>(bytes), ReduceOp::sum);
  for (size_t i = 0; i < phases.size(); ++i) {
    phases[i].seconds = seconds[i];
    phases[i].least_seconds = least[i];
    phases[i].bytes = bytes[i];
  }
}

/// The index of the median; of an even number the lower of the middle two.
size_t median_index(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  return order[(order.size() - 1) / 2];
}

}  // namespace

std::vector<int32_t> random_prompt(uint64_t seed, int64_t index, int64_t length, int64_t vocab) {
  uint64_t key = mix64(seed ^ mix64(static_cast<uint64_t>(index)));
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(mix64(key + i) % static_cast<uint64_t>(vocab));
  return tokens;
}

GroupMeasurement::GroupMeasurement(Context& ctx, const ProcessGrid& grid, Transformer& model, const RunConfig& config,
                                   const BenchGroup& group)
    : ctx_(ctx), grid_(grid), model_(model), config_(config), group_(group) {
  model_.set_cache(group.cache);
  ctx_.synchronize();
  ctx_.memory().reset_peak();
}

Sequence GroupMeasurement::prefill(int64_t index, double* seconds) {
  std::vector<int32_t> prompt = random_prompt(config_.bench.seed, index, group_.context, model_.config().vocab);
  PrefillOptions options;
  options.max_new_tokens = decode_steps(config_, group_);
  options.chunk = config_.prefill.chunk;
  options.host_residual = config_.prefill.residual == ResidualPlace::host;
  grid_.control().barrier();
  ctx_.synchronize();
  Stopwatch watch;
  Sequence sequence = model_.prefill(prompt, options);
  ctx_.synchronize();
  *seconds = slowest(grid_.control(), watch.seconds());
  return sequence;
}

// The same prompt again and again; the last of the sequences stays.
void GroupMeasurement::measure_prefills() {
  std::vector<PrefillReport> reports;
  std::optional<Sequence> sequence;
  for (int64_t i = -config_.bench.warmup; i < config_.bench.repeats; ++i) {
    sequence.reset();  // its memory, before the next one takes its own
    double seconds = 0.0;
    sequence.emplace(prefill(0, &seconds));
    if (i < 0) continue;
    prefills_.prefill_seconds.push_back(seconds);
    reports.push_back(sequence->report);
  }
  size_t median = median_index(prefills_.prefill_seconds);
  prefills_.prefill_s = prefills_.prefill_seconds[median];
  prefills_.report = std::move(reports[median]);
  prefills_.prefill_phases = prefills_.report.phases;
  combine(grid_.control(), prefills_.prefill_phases);
  prefills_.report.layer_bytes = sum_layer_bytes(grid_.control(), prefills_.report.layer_bytes);
  sequences_.push_back(std::move(*sequence));
}

void GroupMeasurement::add_sequence() {
  if (config_.bench.distinct) {
    double seconds = 0.0;
    sequences_.push_back(prefill(static_cast<int64_t>(sequences_.size()), &seconds));
  } else {
    sequences_.push_back(sequences_.front().clone());
  }
}

BenchResult GroupMeasurement::measure(int64_t batch) {
  if (sequences_.empty()) measure_prefills();
  while (static_cast<int64_t>(sequences_.size()) < batch) add_sequence();
  RESTKV_CHECK(static_cast<int64_t>(sequences_.size()) == batch, "a batch of {} after one of {}", batch,
               sequences_.size());
  BenchResult result = prefills_;
  result.batch = batch;
  decode(result);
  gather_memory(result);
  return result;
}

double GroupMeasurement::kv_bytes() {
  int64_t bytes = 0;
  for (Sequence& s : sequences_) {
    s.cache.refresh_lengths();
    bytes += s.cache.bytes();
  }
  grid_.control().all_reduce(&bytes, 1, DType::i64, ReduceOp::sum);
  return static_cast<double>(bytes);
}

// A step takes every sequence from one token to the next: it samples (greedily), then feeds what it sampled.
void GroupMeasurement::decode(BenchResult& result) {
  ActivityScope doing("decode");
  std::vector<DecodeBatch::Member> members;
  for (Sequence& s : sequences_) members.push_back({&s, {}, 0});
  auto batch = make_decode_batch(model_, std::move(members));
  auto step = [&] {
    std::span<const int32_t> sampled = batch->tokens();
    std::vector<int32_t> tokens(sampled.begin(), sampled.end());
    batch->step(tokens);
  };
  for (int64_t i = 0; i < config_.bench.warmup; ++i) step();
  double before = kv_bytes();
  grid_.control().barrier();
  int64_t sent = bytes_sent(grid_);
  std::vector<double>& steps = result.step_seconds;
  for (int64_t i = 0; i < config_.bench.new_tokens; ++i) {
    ctx_.synchronize();
    Stopwatch watch;
    step();
    ctx_.synchronize();
    steps.push_back(watch.seconds());
  }
  result.sent_bytes = bytes_sent(grid_) - sent;
  grid_.control().all_reduce(&result.sent_bytes, 1, DType::i64, ReduceOp::sum);
  result.kv_bytes = (before + kv_bytes()) / 2.0;
  grid_.control().all_reduce(std::span<double>(steps), ReduceOp::max);
  result.step_s = steps[median_index(steps)];
  std::sort(steps.begin(), steps.end());
  auto n = static_cast<double>(steps.size());
  result.step_mean_s = std::accumulate(steps.begin(), steps.end(), 0.0) / n;
  result.step_p95_s = steps[static_cast<size_t>(std::ceil(0.95 * n)) - 1];
  // The parts are timed in further steps, because timing them slows a step down.
  for (int64_t i = 0; i < kTimedSteps; ++i) {
    std::span<const int32_t> sampled = batch->tokens();
    add_phases(result.decode_phases, batch->timed_step(std::vector<int32_t>(sampled.begin(), sampled.end())));
  }
  combine(grid_.control(), result.decode_phases);
  for (PhaseTime& p : result.decode_phases) {
    p.seconds /= static_cast<double>(kTimedSteps);
    p.least_seconds /= static_cast<double>(kTimedSteps);
    p.bytes /= kTimedSteps;
  }
}

void GroupMeasurement::gather_memory(BenchResult& result) {
  Communicator& world = grid_.control();
  auto gather = [&](int64_t mine) {
    std::vector<int64_t> all(static_cast<size_t>(world.size()));
    world.all_gather(&mine, all.data(), 1, DType::i64);
    return all;
  };
  result.peak_bytes = gather(ctx_.memory().peak());
  if (ctx_.gpu() != nullptr) result.device_used_bytes = gather(ctx_.gpu()->total_bytes() - ctx_.gpu()->free_bytes());
}

}  // namespace restkv
