// One run from its configuration to its last result, on one rank.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/mpi_runtime.h"
#include "dist/comm/process_grid.h"
#include "launch/config/run_config.h"
#include "launch/plan/context_choice.h"
#include "launch/plan/memory_plan.h"
#include "launch/prompts/prompts.h"
#include "launch/results/record.h"
#include "launch/results/result_file.h"
#include "launch/run/log.h"
#include "model/checkpoint.h"
#include "model/transformer.h"

namespace restkv {

class Runner {
 public:
  /// Reads and checks everything that can be checked before weights are loaded: configuration, layout, model files,
  /// prompts, output file, memory. Collective over all ranks; throws AgreedFailure on all of them.
  Runner(MpiRuntime& mpi, const std::string& config_path, const std::vector<std::string>& overrides);

  /// Loads the weights and works off the requests. Collective. Throws AgreedFailure where all ranks know of the
  /// failure, any other Error where only this one does.
  void run();

 private:
  void agree_on_config(Communicator& world, const std::string& path, const std::vector<std::string>& overrides);
  void open_inputs();
  void read_requests();
  void share_request_sizes();
  void start_context();
  void check_memory();
  void load_model();
  void run_batch(int64_t first, int64_t count);
  Request receive_request(size_t i);
  void report(const Request& request, const Generation& generation, const RequestSummary& summary);
  bool is_root() const { return mpi_.rank() == 0; }
  bool shows_progress() const { return progress_; }

  MpiRuntime& mpi_;
  Log log_;
  RunConfig config_;
  DecodeMode decode_ = DecodeMode::tensor;
  ContextPlan context_ = ContextPlan::allgather;
  bool progress_ = false;
  std::unique_ptr<Communicator> control_;  // until the grid takes it
  Checkpoint checkpoint_;
  std::vector<Request> requests_;      // those still to be done; rank 0 only
  int64_t pending_ = 0;                // their number, on every rank
  int64_t planned_bytes_ = 0;          // on this rank
  RequestSizes sizes_;                 // of all of them
  std::vector<int64_t> groups_;        // of all of them
  std::optional<HeldContext> held_;    // a context whose next questions are in the next batch
  std::optional<ResultFile> results_;  // rank 0 only
  std::unique_ptr<Context> ctx_;
  std::unique_ptr<ProcessGrid> grid_;  // on the context's device: ends before it
  Layout layout_;
  std::unique_ptr<Transformer> model_;
};

}  // namespace restkv
