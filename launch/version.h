#pragma once

namespace restkv {

/// "0.1.0": the version that results carry.
const char* version();

}  // namespace restkv
