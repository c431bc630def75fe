#include "launch/version.h"

namespace restkv {

const char* version() { return RESTKV_VERSION; }

}  // namespace restkv
