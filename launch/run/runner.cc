#include "launch/run/runner.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "dist/base/activity.h"
#include "dist/comm/device_grid.h"
#include "launch/config/config_hash.h"
#include "launch/run/device.h"
#include "launch/run/open_model.h"
#include "launch/run/progress.h"
#include "launch/run/threads.h"
#include "launch/run/together.h"
#include "model/sampler.h"

namespace restkv {
namespace {

// Deadline of the collectives before the configuration, which sets it, is known.
constexpr double kStartTimeout = 120.0;

}  // namespace

Runner::Runner(MpiRuntime& mpi, const std::string& config_path, const std::vector<std::string>& overrides)
    : mpi_(mpi), log_(mpi.rank(), mpi.size()) {
  {
    auto world = mpi_.world(kStartTimeout);
    agree_on_config(*world, config_path, overrides);
  }
  control_ = mpi_.world(config_.parallel.timeout_s);
  open_inputs();
  read_requests();
  share_request_sizes();
  if (pending_ == 0) return;
  start_context();
  check_memory();
}

void Runner::agree_on_config(Communicator& world, const std::string& path, const std::vector<std::string>& overrides) {
  run_together(world, [&] { config_ = load_run_config(path, overrides); });
  require_equal(world, config_hash(config_, HashScope::everything),
                fmt::format("{}: the ranks read different configurations; expected the same file and the same --set on "
                            "every host",
                            path));
  run_together(world, [&] { resolve_layout(config_, world.size()); });
  decode_ = resolve_decode(config_.parallel.decode, mpi_.local_size() == mpi_.size());
  progress_ = world.rank() == 0 && config_.output.progress && stderr_is_terminal();
}

void Runner::open_inputs() {
  run_together(*control_, [&] {
    checkpoint_ = open_model_for_text(config_);
    check_layout(checkpoint_.config, config_, decode_);
  });
}

// Rank 0 reads and tokenizes everything before any weight is loaded: a bad last prompt is found in the first second.
void Runner::read_requests() {
  run_together(*control_, [&] {
    if (!is_root()) return;
    requests_ = prepare_requests(read_prompts(config_), checkpoint_, config_);
    if (config_.output.file.empty()) return;
    results_.emplace(config_.output.file);
    if (results_->torn_bytes() > 0)
      log_.warn("{}: cut off a torn last line of {} bytes, which an interrupted run left", results_->path(),
                results_->torn_bytes());
    if (!config_.output.resume) return;
    std::string hash = hex64(config_hash(config_, HashScope::outcome));
    size_t all = requests_.size();
    std::erase_if(requests_, [&](const Request& r) { return results_->holds(hash, hex64(r.hash)); });
    if (requests_.size() < all)
      log_.info("{} of {} requests are in {} already and are skipped (output.resume: false computes them again)",
                all - requests_.size(), all, results_->path());
  });
}

void Runner::share_request_sizes() {
  std::array<int64_t, 2> sizes = {static_cast<int64_t>(requests_.size()), 0};
  for (const Request& r : requests_) sizes[1] = std::max(sizes[1], static_cast<int64_t>(r.tokens.size()));
  control_->broadcast(std::span<int64_t>(sizes), 0);
  pending_ = sizes[0];
  longest_ = sizes[1];
}

void Runner::start_context() {
  ctx_ = make_context(mpi_, *control_, config_, log_);
  GridOptions options;
  options.sequence = static_cast<int>(config_.parallel.sequence);
  options.tensor = static_cast<int>(config_.parallel.tensor);
  options.timeout_s = config_.parallel.timeout_s;
  options.wrap = mpi_.wrapper();
  grid_ = make_device_grid(std::move(control_), *ctx_, options);
  layout_ = {config_.parallel.sequence, config_.parallel.tensor, ctx_->threads(),
             decode_ == DecodeMode::tensor ? "tensor" : "sequence", std::string(name_of(ctx_->device()))};
}

void Runner::check_memory() {
  PlanInput input;
  run_together(grid_->control(),
               [&] { input = make_plan_input(checkpoint_, config_, decode_, longest_, ctx_->device()); });
  input.batch = std::min(config_.generate.batch, pending_);
  const int64_t available = memory_limit(config_, available_on(*ctx_));
  context_ = agree_on_context(grid_->control(), input, mpi_.local_size() == mpi_.size(), ranks_sharing(*ctx_, mpi_),
                              available);
  run_together(grid_->control(), [&] {
    input.context = context_;
    MemoryPlan plan = plan_memory(input);
    planned_bytes_ = plan.total();
    log_.info("{} x {} ranks (sequence x tensor), {} threads each; {} request{}, longest prompt {} tokens",
              config_.parallel.sequence, config_.parallel.tensor, ctx_->threads(), pending_, pending_ == 1 ? "" : "s",
              longest_);
    if (input.sequence_size() > 1) log_.info("keys and values go by {}", name_of(context_));
    log_.info("memory plan: {}", describe(plan, ranks_sharing(*ctx_, mpi_), available));
    require_fit(input, plan, ranks_sharing(*ctx_, mpi_), available);
  });
}

void Runner::load_model() {
  ActivityScope doing("load");
  run_together(grid_->control(), [&] {
    ProgressBar bar(shows_progress(), "load");
    Stopwatch watch;
    TransformerOptions options;
    options.decode = decode_;
    options.context = context_;
    options.weight_dtype = weight_dtype(config_.model.dtype);
    options.timeout_s = config_.parallel.timeout_s;
    model_ = std::make_unique<Transformer>(*ctx_, *grid_, checkpoint_.config, *checkpoint_.weights, config_.cache,
                                           options, [&](int64_t done, int64_t total) { bar.update(done, total); });
    bar.finish();
    if (ctx_->gpu() != nullptr) ctx_->gpu()->reserve(std::max<int64_t>(0, planned_bytes_ - ctx_->memory().current()));
    log_.info("loaded {} of weights per rank in {:.1f} s", format_bytes(model_->weights().bytes()), watch.seconds());
  });
}

void Runner::run() {
  if (pending_ == 0) return;
  load_model();
  for (int64_t i = 0; i < pending_; i += config_.generate.batch)
    run_batch(i, std::min(config_.generate.batch, pending_ - i));
}

Request Runner::receive_request(size_t i) {
  Request request;
  if (is_root()) request = std::move(requests_[i]);
  std::array<uint64_t, 3> header = {request.tokens.size(), request.hash, static_cast<uint64_t>(request.index)};
  grid_->control().broadcast(std::span<uint64_t>(header), 0);
  request.tokens.resize(header[0]);
  request.hash = header[1];
  request.index = static_cast<int64_t>(header[2]);
  grid_->control().broadcast(std::span<int32_t>(request.tokens), 0);
  return request;
}

void Runner::run_batch(int64_t first, int64_t count) {
  std::vector<Request> requests;
  for (int64_t i = first; i < first + count; ++i) {
    requests.push_back(receive_request(static_cast<size_t>(i)));
    const Request& request = requests.back();
    if (is_root() && pending_ > 1)
      log_.info("request {} of {}: {} ({} tokens)", i + 1, pending_, request.id.empty() ? request.origin : request.id,
                request.tokens.size());
  }
  ProgressBar bar(shows_progress(), "prefill");
  GenerationHooks hooks;
  hooks.on_prefill = [&](int64_t done, int64_t layers) { bar.update(done, layers); };
  hooks.on_prefill_done = [&] { bar.finish(); };
  if (config_.output.stream && count == 1)
    hooks.on_text = [](const std::string& text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
  ctx_->memory().reset_peak();
  std::vector<Generation> generations = generate(*model_, *grid_, checkpoint_, config_, requests, hooks);
  for (size_t i = 0; i < requests.size(); ++i) {
    RequestSummary summary = summarize(grid_->control(), generations[i], ctx_->memory().peak(), peak_resident_bytes());
    // Only rank 0 writes, but all ranks learn whether it could.
    run_together(grid_->control(), [&] {
      if (is_root()) report(requests[i], generations[i], summary);
    });
  }
}

void Runner::report(const Request& request, const Generation& generation, const RequestSummary& summary) {
  if (config_.output.stream) {
    if (generation.batch > 1) std::fputs(generation.text.c_str(), stdout);
    std::fputs("\n", stdout);
    std::fflush(stdout);
  }
  fmt::print(stderr, "{}", to_table(request, generation, summary));
  std::fflush(stderr);
  if (!results_) return;
  results_->append(to_json_line(request, generation, summary, layout_, config_));
  log_.info("result appended to {}", results_->path());
}

}  // namespace restkv
