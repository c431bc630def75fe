// Which twin of an op runs. Ops call need_cpu() until they have a GPU twin, so that none silently does nothing.
#pragma once

#include "dist/base/context.h"
#include "dist/base/error.h"

namespace restkv {

inline void need_cpu(const Context& ctx, const char* op) {
  if (ctx.device() != Device::cpu) fail_runtime("{} has no {} version in this build", op, name_of(ctx.device()));
}

}  // namespace restkv
