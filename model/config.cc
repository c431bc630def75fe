#include "model/config.h"

namespace restkv {

int64_t ModelConfig::parameters() const {
  int64_t attention = hidden * d * (2 * Hq + 2 * Hkv);
  int64_t mlp = 3 * hidden * intermediate;
  int64_t norms = 2 * hidden;
  int64_t embeddings = vocab * hidden * (tied_embeddings ? 1 : 2);
  return layers * (attention + mlp + norms) + embeddings + hidden;
}

}  // namespace restkv
