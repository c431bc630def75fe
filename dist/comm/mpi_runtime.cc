#include "dist/comm/mpi_runtime.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "dist/base/activity.h"
#include "dist/base/error.h"
#include "dist/comm/checked_communicator.h"
#include "dist/comm/mpi_check.h"
#include "dist/comm/mpi_communicator.h"
#include "dist/comm/watchdog.h"

namespace restkv {
namespace {

void find_place_on_host(int* local_rank, int* local_size) {
  MPI_Comm host = MPI_COMM_NULL;
  RESTKV_MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host));
  RESTKV_MPI_CHECK(MPI_Comm_rank(host, local_rank));
  RESTKV_MPI_CHECK(MPI_Comm_size(host, local_size));
  RESTKV_MPI_CHECK(MPI_Comm_free(&host));
}

}  // namespace

void check_started_size(int mpi_size, const std::function<const char*(const char*)>& variable) {
  // The first launcher that left its count decides: mpirun inside a Slurm allocation sees Slurm's variables too.
  // SLURM_NTASKS alone is no sign: a batch script has it before any task is started.
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* value = variable(name);
    if (value == nullptr) continue;
    int started = std::atoi(value);
    if (started <= 0 || started == mpi_size) return;
    fail_input(
        "{} processes were started ({}), but MPI joins {} of them: the program was built with another MPI library "
        "than the launcher's; start it with that library's own mpirun (for Open MPI under Slurm: mpirun, or "
        "srun --mpi=pmix)",
        started, name, mpi_size);
  }
}

// Ends every rank: MPI_Abort tells the launcher. Should that hang too (the library's locks may be held by a blocked
// call), the process ends by itself, and the launcher ends the others on seeing its exit code.
void MpiRuntime::end_all_ranks(int exit_code) {
  std::thread([exit_code] {
    std::this_thread::sleep_for(std::chrono::seconds(2));
    ::_exit(exit_code);
  }).detach();
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  ::_exit(exit_code);
}

MpiRuntime::MpiRuntime(int* argc, char*** argv) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (!initialized) {
    // Only the main thread calls MPI; the watchdog's thread calls MPI_Abort alone, with a way out if that hangs.
    int provided = 0;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
      fail_runtime("MPI could not be initialised");
    initialised_here_ = true;
  }
  RESTKV_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  RESTKV_MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  RESTKV_MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  try {
    check_started_size(size_, [](const char* name) { return std::getenv(name); });
  } catch (...) {
    if (initialised_here_) MPI_Finalize();
    throw;
  }
  find_place_on_host(&local_rank_, &local_size_);
  // Two survivors at most: of hundreds of ranks all would say the same.
  if (size_ > 1 && rank_ <= 1) report_termination(rank_);
}

MpiRuntime::~MpiRuntime() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (!initialised_here_ || finalized || std::uncaught_exceptions() > 0) return;
  // MPI_Finalize waits for all ranks, so it stands under the deadline as well.
  auto scope = watchdog_ ? watchdog_->enter("finalize", "world", 0) : Watchdog::Scope();
  MPI_Finalize();
}

std::unique_ptr<Communicator> MpiRuntime::world(double timeout_s, bool check_calls) {
  MpiOptions options;
  if (timeout_s > 0.0) {
    options.watchdog = std::make_shared<Watchdog>(timeout_s, rank_, [](const std::string&) { end_all_ranks(1); });
    watchdog_ = options.watchdog;
  }
  auto world = make_mpi_communicator(options);
  if (check_calls) world = make_checked_communicator(std::move(world));
  return wrapper_ ? wrapper_(std::move(world)) : std::move(world);
}

void MpiRuntime::meet(bool worked, double timeout_s) {
  std::unique_ptr<Watchdog> watchdog;
  if (worked && timeout_s > 0.0)
    watchdog = std::make_unique<Watchdog>(timeout_s, rank_, [](const std::string&) { end_all_ranks(1); });
  auto scope =
      watchdog ? watchdog->enter("meeting of the working and the idle ranks", "all ranks", 0) : Watchdog::Scope();
  MPI_Request request = MPI_REQUEST_NULL;
  RESTKV_MPI_CHECK(MPI_Ibarrier(MPI_COMM_WORLD, &request));
  // Short at first, so that ranks that come together lose no time.
  auto nap = std::chrono::microseconds(50);
  for (int met = 0; true;) {
    RESTKV_MPI_CHECK(MPI_Test(&request, &met, MPI_STATUS_IGNORE));
    if (met) return;
    std::this_thread::sleep_for(nap);
    nap = std::min(2 * nap, std::chrono::microseconds(10000));
  }
}

void MpiRuntime::abort(const std::string& text, int exit_code) {
  std::fflush(stdout);
  if (rank_ != 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const std::string doing = describe(activity());
  print_line_to_stderr(fmt::format("rank {}{}{}: {}", rank_, doing.empty() ? "" : ", ", doing, text));
  end_all_ranks(exit_code == 0 ? 1 : exit_code);
}

}  // namespace restkv
