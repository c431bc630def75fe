#include "dist/base/error.h"

namespace restkv::detail {

void check_failed(const char* condition, const char* file, int line, const std::string& text) {
  throw RuntimeFailure(fmt::format("{}:{}: check failed: {}: {}", file, line, condition, text));
}

}  // namespace restkv::detail
