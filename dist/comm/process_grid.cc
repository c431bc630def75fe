#include "dist/comm/process_grid.h"

#include "dist/base/error.h"

namespace restkv {
namespace {

// "1 x 6, 2 x 3, 3 x 2, 6 x 1"
std::string layouts_of(int world) {
  std::string text;
  for (int sequence = 1; sequence <= world; ++sequence)
    if (world % sequence == 0) text += fmt::format("{}{} x {}", text.empty() ? "" : ", ", sequence, world / sequence);
  return text;
}

}  // namespace

void ProcessGrid::check_layout(int world, int sequence_size, int tensor_size) {
  if (sequence_size < 1 || tensor_size < 1)
    fail_input("layout: sequence {} x tensor {}: both must be at least 1", sequence_size, tensor_size);
  int64_t needed = static_cast<int64_t>(sequence_size) * tensor_size;
  if (needed != world)
    fail_input(
        "layout: sequence {} x tensor {} needs {} ranks, but {} {} started; start with mpirun -np {}, or set "
        "sequence x tensor to one of: {}",
        sequence_size, tensor_size, needed, world, world == 1 ? "was" : "were", needed, layouts_of(world));
}

ProcessGrid::ProcessGrid(std::unique_ptr<Communicator> world, int sequence_size, int tensor_size,
                         std::unique_ptr<Communicator> control)
    : control_(std::move(control)), world_(std::move(world)) {
  RESTKV_CHECK(control_ == nullptr || (control_->size() == world_->size() && control_->rank() == world_->rank()),
               "the control group's rank {} of {} is not the world's {} of {}", control_->rank(), control_->size(),
               world_->rank(), world_->size());
  check_layout(world_->size(), sequence_size, tensor_size);
  int sequence_rank = world_->rank() / tensor_size, tensor_rank = world_->rank() % tensor_size;
  sequence_ = world_->split(tensor_rank, sequence_rank, "sequence");
  tensor_ = world_->split(sequence_rank, tensor_rank, "tensor");
}

}  // namespace restkv
