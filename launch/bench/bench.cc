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
  open_machine();
  log_.info("{}, {} rank{}, {} threads each; ceilings: GEMM {:.4g} TFLOP/s, copy {:.4g} TB/s", setting_.device_name,
            mpi_.size(), mpi_.size() == 1 ? "" : "s", ctx_->threads(), setting_.ceilings.gemm_flops / 1e12,
            setting_.ceilings.copy_bytes / 1e12);
  run_together(*world_, [&] {
    if (results_) results_->append(environment_line(setting_, mpi_.size()));
  });
}

// What the run's points are predicted from: what an earlier run on such machines measured, or a known GPU, with the
// ceilings of this run.
void Bench::open_machine() {
  run_together(*world_, [&] {
    if (!config_.plan.ceilings.empty())
      machine_ = read_machine(config_.plan.ceilings, ctx_->device());
    else if (ctx_->gpu() != nullptr)
      machine_ = h200();
    else
      return;
    setting_.predicted_from = fmt::format("{}, and the ceilings of this run", machine_.source);
    machine_.gemm_flops = setting_.ceilings.of(1).gemm_flops;
    machine_.copy_bytes = setting_.ceilings.of(1).copy_bytes;
  });
}

int Bench::run() {
  for (const BenchLayout& layout : sweep_) run_layout(layout);
  if (!is_root()) return share_exit_code(0);
  auto count = [&](const char* status) {
    return std::count_if(points_.begin(), points_.end(), [&](const BenchPoint& p) { return p.status == status; });
  };
  std::fputs(table().c_str(), stdout);
  std::fflush(stdout);
  if (results_) log_.info("{} points appended to {}", points_.size(), results_->path());
  return share_exit_code(count("failed") > 0 ? 1 : count("ok") == 0 ? 2 : 0);
}

// Rank 0 has seen every point, the others only those that they worked on.
int Bench::share_exit_code(int code) {
  world_->broadcast(&code, 1, DType::i32, 0);
  return code;
}

void Bench::run_layout(const BenchLayout& layout) {
  setting_.layout.sequence = layout.sequence;
  setting_.layout.tensor = layout.tensor;
  setting_.weight_bytes = 0;
  const bool works = mpi_.rank() < layout.ranks();
  auto group = world_->split(works ? 0 : 1, mpi_.rank(), "world");
  if (works) measure_layout(layout, std::move(group));
  mpi_.meet(works, config_.parallel.timeout_s);
}

void Bench::measure_layout(const BenchLayout& layout, std::unique_ptr<Communicator> group) {
  GridOptions options;
  options.sequence = static_cast<int>(layout.sequence);
  options.tensor = static_cast<int>(layout.tensor);
  options.timeout_s = config_.parallel.timeout_s;
  grid_ = make_device_grid(std::move(group), *ctx_, options);
  setting_.links = measure_links(*ctx_, *grid_);
  run_together(grid_->control(), [&] {
    if (results_ && grid_->size() > 1) results_->append(links_line(setting_));
  });
  for (const BenchGroup& points : layout.groups) run_group(layout, points);
  model_.reset();
  grid_.reset();
}

// When the first point of the layout is found to fit.
void Bench::load_model(const BenchLayout& layout) {
  if (model_) return;
  ActivityScope doing("load");
  Stopwatch watch;
  run_together(grid_->control(), [&] {
    ProgressBar bar(is_root() && config_.output.progress && stderr_is_terminal(), "load");
    TransformerOptions options;
    options.decode = decode_;
    options.weight_dtype = weight_dtype(config_.model.dtype);
    options.timeout_s = config_.parallel.timeout_s;
    model_ = std::make_unique<Transformer>(*ctx_, *grid_, checkpoint_.config, *checkpoint_.weights,
                                           layout.groups.front().cache, options,
                                           [&](int64_t done, int64_t total) { bar.update(done, total); });
    ctx_->synchronize();
  });
  setting_.load_s = watch.seconds();
  grid_->control().all_reduce(&setting_.load_s, 1, DType::f64, ReduceOp::max);
  const TransformerWeights& weights = model_->weights();
  int64_t embedding = checkpoint_.config.tied_embeddings ? 0 : weights.embedding.bytes();
  std::array<int64_t, 2> bytes = {weights.bytes(), weights.bytes() - embedding};
  grid_->control().all_reduce(std::span<int64_t>(bytes));
  setting_.weight_bytes = bytes[0];
  setting_.step_weights = static_cast<double>(bytes[1]) / static_cast<double>(layout.sequence);
  log_.info("{}x{}: {} of weights on {} rank{} in {:.1f} s", layout.sequence, layout.tensor, format_bytes(bytes[0]),
            grid_->size(), grid_->size() == 1 ? "" : "s", setting_.load_s);
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
std::string Bench::plan_point(const BenchGroup& group, BenchPoint& point) {
  PlanInput input = point_input(checkpoint_, point.config, group, point.batch, decode_, ctx_->device());
  const int sharing = std::min(ranks_sharing(*ctx_, mpi_), grid_->size());
  context_ = agree_on_context(grid_->control(), input, mpi_.local_size() == mpi_.size(), sharing, available_);
  input.context = context_;
  MemoryPlan plan = plan_memory(input);
  point.planned_bytes = plan.total();
  point.work = memory_work(input);
  if (!setting_.predicted_from.empty()) point.prediction = predict(input, machine_, config_.plan.ranks_per_node);
  return agree_on_text(grid_->control(), refusal_of(input, plan, sharing, available_));
}

void Bench::run_group(const BenchLayout& layout, const BenchGroup& group) {
  std::unique_ptr<GroupMeasurement> measurement;
  std::string failure;
  for (int64_t batch : group.batch) {
    BenchPoint point = make_point(layout, group, batch);
    point.reason = plan_point(group, point);
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
  if (grid_->size() > 1) {
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
  points_.push_back(std::move(point));
  run_together(grid_->control(), [&] {
    if (results_) results_->append(point_line(points_.back(), setting_, points_));
  });
}

}  // namespace restkv
