#include "dist/base/activity.h"

#include <fmt/format.h>

#include <exception>

namespace restkv {

Activity& activity() {
  thread_local Activity own;
  return own;
}

std::string describe(const Activity& activity) {
  if (activity.stage == nullptr) return "";
  std::string text = activity.stage;
  if (activity.layer >= 0) text += fmt::format(", layer {}", activity.layer);
  if (activity.step != nullptr) text += fmt::format(", {}", activity.step);
  return text;
}

ActivityScope::ActivityScope(const char* stage) : before_(activity()), exceptions_(std::uncaught_exceptions()) {
  activity() = {stage, -1, nullptr};
}

ActivityScope::~ActivityScope() {
  if (std::uncaught_exceptions() == exceptions_) activity() = before_;
}

}  // namespace restkv
