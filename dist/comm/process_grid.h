// The world as sequence x tensor: rank = sequence_rank * tensor_size + tensor_rank, so that the ranks of one tensor
// group are neighbours (same host first).
#pragma once

#include <memory>

#include "dist/comm/communicator.h"

namespace restkv {

class ProcessGrid {
 public:
  /// `world`, and with it sequence() and tensor(), moves what ranks compute: it works on the memory of their device.
  /// `control` (all ranks, in the same order) moves what their hosts have to say: counts, tokens, errors. It is `world`
  /// itself where the devices are CPUs (null).
  /// Takes the world group and splits it. Throws InputError unless sequence * tensor == world->size() (the message
  /// says which sizes would fit). Collective.
  ProcessGrid(std::unique_ptr<Communicator> world, int sequence_size, int tensor_size,
              std::unique_ptr<Communicator> control = nullptr);

  /// Throws InputError unless the sizes are positive and their product is `world`.
  static void check_layout(int world, int sequence_size, int tensor_size);

  int sequence_size() const { return sequence_->size(); }
  int tensor_size() const { return tensor_->size(); }
  int sequence_rank() const { return sequence_->rank(); }
  int tensor_rank() const { return tensor_->rank(); }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  bool is_root() const { return rank() == 0; }

  Communicator& world() const { return *world_; }
  /// All ranks; host memory.
  Communicator& control() const { return control_ != nullptr ? *control_ : *world_; }
  /// Ranks that hold the same heads and other tokens.
  Communicator& sequence() const { return *sequence_; }
  /// Ranks that hold the same tokens and other heads.
  Communicator& tensor() const { return *tensor_; }

 private:
  std::unique_ptr<Communicator> control_;
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Communicator> sequence_;
  std::unique_ptr<Communicator> tensor_;
};

}  // namespace restkv
