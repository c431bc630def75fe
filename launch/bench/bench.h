// One sweep from its configuration to its table, on one rank.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/mpi_runtime.h"
#include "dist/comm/process_grid.h"
#include "launch/bench/record.h"
#include "launch/plan/machine.h"
#include "launch/plan/memory_plan.h"
#include "launch/results/result_file.h"
#include "launch/run/log.h"
#include "model/checkpoint.h"

namespace restkv {

class Bench {
 public:
  /// Reads and checks everything that can be checked before weights are loaded, and measures the ceilings. Collective
  /// over all ranks; throws AgreedFailure on all of them.
  Bench(MpiRuntime& mpi, const std::string& config_path, const std::vector<std::string>& overrides);

  /// Measures point after point, a layout of fewer ranks than the run on the first of them while the others wait; each
  /// is on the disk before the next one starts. A point that cannot run is recorded with its reason, and the sweep goes
  /// on; so it does after an error on a single rank (amid several, an error ends the run). Returns the process's exit
  /// code: 1 when a point failed, 2 when every point was refused. Collective.
  int run();
  /// What run() printed; on rank 0, which alone has every point.
  std::string table() const { return bench_table(points_, setting_); }

 private:
  void agree_on_config(Communicator& world, const std::string& path, const std::vector<std::string>& overrides);
  void open_inputs();
  void start_context();
  void open_machine();
  int share_exit_code(int code);
  void run_layout(const BenchLayout& layout);
  void measure_layout(const BenchLayout& layout, std::unique_ptr<Communicator> group);
  void run_group(const BenchLayout& layout, const BenchGroup& group);
  void load_model(const BenchLayout& layout);
  BenchPoint make_point(const BenchLayout& layout, const BenchGroup& group, int64_t batch) const;
  std::string plan_point(const BenchGroup& group, BenchPoint& point);
  void reserve_memory(const BenchPoint& point);
  void measure(GroupMeasurement& measurement, BenchPoint& point);
  void finish(BenchPoint point);
  bool is_root() const { return mpi_.rank() == 0; }

  MpiRuntime& mpi_;
  Log log_;
  RunConfig config_;
  DecodeMode decode_ = DecodeMode::tensor;
  std::unique_ptr<Communicator> world_;  // all ranks of the run, host memory
  Machine machine_;                      // what predictions come from, when setting_.predicted_from is set
  std::vector<BenchLayout> sweep_;
  Checkpoint checkpoint_;
  std::unique_ptr<Context> ctx_;
  int64_t available_ = 0;  // bytes, before any weight is loaded
  BenchSetting setting_;
  std::optional<ResultFile> results_;  // rank 0 only
  std::vector<BenchPoint> points_;
  ContextPlan context_ = ContextPlan::allgather;  // of the point at hand
  // Of the layout at hand; on the ranks that it leaves out nothing.
  std::unique_ptr<ProcessGrid> grid_;
  std::unique_ptr<Transformer> model_;
};

}  // namespace restkv
