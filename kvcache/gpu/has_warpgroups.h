// Whether the *_sm90a_gpu.cu files can run.
#pragma once

namespace restkv::gpu {

/// Products of warpgroups: on devices of compute capability 9.0, in builds with code for them (sm_90a).
bool has_warpgroups();

}  // namespace restkv::gpu
