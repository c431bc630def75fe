#include "launch/bench/bench.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <new>

#include "dist/base/activity.h"
#include "dist/base/stopwatch.h"
#include "dist/comm/device_grid.h"
#include "launch/bench/point_plan.h"
#include "launch/config/config_hash.h"
#include "launch/plan/context_choice.h"
#include "launch/run/device.h"
#include "launch/run/open_model.h"
#include "launch/run/progress.h"
#include "launch/run/together.h"

namespace restkv {

Bench::Bench(MpiRuntime& mpi, const std::string& config_path, const std::vector<std::string>& overrides)
    : mpi_(mpi), log_(mpi.rank(), mpi.size()) {
  constexpr double kStartTimeout = 120.0;  // until the configuration, which sets it, is known
  {
    auto world = mpi_.world(kStartTimeout);
    agree_on_config(*world, config_path, overrides);
  }
  world_ = mpi_.world(config_.parallel.timeout_s);
  open_inputs();
  start_context();
}

void Bench::agree_on_config(Communicator& world, const std::string& path, const std::vector<std::string>& overrides) {
  run_together(world, [&] { config_ = load_run_config(path, overrides, ConfigUse::bench); });
  require_equal(world, config_hash(config_, HashScope::everything),
                fmt::format("{}: the ranks read different configurations; expected the same file and the same --set on "
                            "every host",
                            path));
  run_together(world, [&] { sweep_ = make_sweep(config_, world.size()); });
  decode_ = resolve_decode(config_.parallel.decode, mpi_.local_size() == mpi_.size());
}

void Bench::open_inputs() {
  run_together(*world_, [&] {
    checkpoint_ = open_model(config_);
    for (const BenchLayout& layout : sweep_)
      check_layout(checkpoint_.config, point_config(config_, layout, layout.groups.front()), decode_);
    if (is_root() && !config_.bench.file.empty()) results_.emplace(config_.bench.file, "bench.file");
    for (const std::string& name : config_.bench.policies)
      if (CacheConfig cache = cache_of_policy(config_, name); cache.pooling != config_.cache.pooling)
        log_.info("policy {} cannot pool as cache.pooling says; it takes the first way of its own", name);
    int64_t positions = checkpoint_.config.max_positions;
    if (raise_positions(config_, sweep_, &checkpoint_.config))
      log_.info("{} has {} positions; with random weights it runs with the {} that the sweep needs",
                config_.model.preset, positions, checkpoint_.config.max_positions);
  });
}

void Bench::start_context() {
  ctx_ = make_context(mpi_, *world_, config_, log_);
  available_ = memory_limit(config_, available_on(*ctx_));
  setting_.config = config_;
  setting_.model = checkpoint_.config;
  setting_.layout.threads = ctx_->threads();
  setting_.layout.decode = decode_ == DecodeMode::tensor ? "tensor" : "sequence";
  setting_.layout.device = name_of(ctx_->device());
  setting_.device_name = device_name(*ctx_);
  if (ctx_->gpu() != nullptr) setting_.device_versions = ctx_->gpu()->versions() + "; " + ctx_->gpu()->links();
  setting_.ceilings = measure_ceilings(*ctx_, *world_);
  log_.info("{}, {} rank{}, {} threads each; ceilings: GEMM {:.4g} TFLOP/s, copy {:.4g} TB/s", setting_.device_name,
            mpi_.size(), mpi_.size() == 1 ? "" : "s", ctx_->threads(), setting_.ceilings.gemm_flops / 1e12,
            setting_.ceilings.copy_bytes / 1e12);
  run_together(*world_, [&] {
    if (results_) results_->append(environment_line(setting_, mpi_.size()));
  });
}

int Bench::run() {
  for (const BenchLayout& layout : sweep_) run_layout(layout);
  auto count = [&](const char* status) {
    return std::count_if(points_.begin(), points_.end(), [&](const BenchPoint& p) { return p.status == status; });
  };
  if (is_root()) {
    std::string table = bench_table(points_, setting_);
    std::fwrite(table.data(), 1, table.size(), stdout);
    std::fflush(stdout);
    if (results_) log_.info("{} points appended to {}", points_.size(), results_->path());
  }
  if (count("failed") > 0) return 1;
  return count("ok") == 0 ? 2 : 0;
}

void Bench::run_layout(const BenchLayout& layout) {
  setting_.layout.sequence = layout.sequence;
  setting_.layout.tensor = layout.tensor;
  setting_.weight_bytes = 0;
  GridOptions options;
  options.sequence = static_cast<int>(layout.sequence);
  options.tensor = static_cast<int>(layout.tensor);
  options.timeout_s = config_.parallel.timeout_s;
  grid_ = make_device_grid(mpi_.world(config_.parallel.timeout_s), *ctx_, options);
  for (const BenchGroup& group : layout.groups) run_group(layout, group);
  model_.reset();
  grid_.reset();
}

// When the first point of the layout is found to fit.
void Bench::load_model(const BenchLayout& layout) {
  if (model_) return;
  ActivityScope doing("load");
  Stopwatch watch;
  run_together(*world_, [&] {
    ProgressBar bar(is_root() && config_.output.progress && stderr_is_terminal(), "load");
    TransformerOptions options;
    options.decode = decode_;
    options.weight_dtype = weight_dtype(config_.model.dtype);
    model_ = std::make_unique<Transformer>(*ctx_, *grid_, checkpoint_.config, *checkpoint_.weights,
                                           layout.groups.front().cache, options,
                                           [&](int64_t done, int64_t total) { bar.update(done, total); });
    ctx_->synchronize();
  });
  setting_.load_s = watch.seconds();
  world_->all_reduce(&setting_.load_s, 1, DType::f64, ReduceOp::max);
  const TransformerWeights& weights = model_->weights();
  int64_t embedding = checkpoint_.config.tied_embeddings ? 0 : weights.embedding.bytes();
  std::array<int64_t, 2> bytes = {weights.bytes(), weights.bytes() - embedding};
  world_->all_reduce(std::span<int64_t>(bytes));
  setting_.weight_bytes = bytes[0];
  setting_.step_weights = static_cast<double>(bytes[1]) / static_cast<double>(layout.sequence);
  log_.info("{}x{}: {} of weights on {} rank{} in {:.1f} s", layout.sequence, layout.tensor, format_bytes(bytes[0]),
            mpi_.size(), mpi_.size() == 1 ? "" : "s", setting_.load_s);
}

BenchPoint Bench::make_point(const BenchLayout& layout, const BenchGroup& group, int64_t batch) const {
  BenchPoint point;
  point.config = point_config(config_, layout, group);
  point.context = group.context;
  point.batch = batch;
  point.layout = setting_.layout;
  return point;
}

// Why the point cannot run, on every rank; empty when it can.
std::string Bench::refusal(const BenchGroup& group, BenchPoint& point) {
  PlanInput input = point_input(checkpoint_, point.config, group, point.batch, decode_, ctx_->device());
  context_ = agree_on_context(*world_, input, mpi_.local_size() == mpi_.size(), ranks_sharing(*ctx_, mpi_), available_);
  input.context = context_;
  MemoryPlan plan = plan_memory(input);
  point.planned_bytes = plan.total();
  return agree_on_text(*world_, refusal_of(input, plan, ranks_sharing(*ctx_, mpi_), available_));
}

void Bench::run_group(const BenchLayout& layout, const BenchGroup& group) {
  std::unique_ptr<GroupMeasurement> measurement;
  std::string failure;
  for (int64_t batch : group.batch) {
    BenchPoint point = make_point(layout, group, batch);
    point.reason = refusal(group, point);
    if (!point.reason.empty()) {
      point.status = "refused";
    } else if (!failure.empty()) {
      point.status = "failed";
      point.reason = "after a smaller batch of the same prompts: " + failure;
    } else {
      load_model(layout);
      model_->set_context_plan(context_);
      reserve_memory(point);
      if (!measurement) measurement = std::make_unique<GroupMeasurement>(*ctx_, *grid_, *model_, point.config, group);
      measure(*measurement, point);
      if (point.status == "failed") {
        failure = point.reason;
        measurement.reset();
      }
    }
    finish(std::move(point));
  }
}

// Takes the memory that the plan says from the device once, so that no allocation within a layer asks the driver.
void Bench::reserve_memory(const BenchPoint& point) {
  const int64_t held = ctx_->memory().current();
  if (ctx_->gpu() != nullptr && point.planned_bytes > held) ctx_->gpu()->reserve(point.planned_bytes - held);
}

// One rank alone can go on after an error. Among several the others wait in a collective, and all have to end.
void Bench::measure(GroupMeasurement& measurement, BenchPoint& point) {
  if (mpi_.size() > 1) {
    point.result = measurement.measure(point.batch);
    return;
  }
  try {
    point.result = measurement.measure(point.batch);
  } catch (const Error& e) {
    const std::string doing = describe(activity());
    point.status = "failed";
    point.reason = doing.empty() ? e.what() : doing + ": " + e.what();
  } catch (const std::bad_alloc&) {
    point.status = "failed";
    point.reason = "out of memory";
  }
}

void Bench::finish(BenchPoint point) {
  log_.info("{}", point_summary(point));
  run_together(*world_, [&] {
    if (results_) results_->append(point_line(point, setting_));
  });
  points_.push_back(std::move(point));
}

}  // namespace restkv
