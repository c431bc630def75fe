#include "launch/run/text_stream.h"

#include <algorithm>
#include <utility>

namespace restkv {

std::string StopFilter::push(const std::string& text) {
  if (stopped_) return "";
  pending_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  stopped_ = first != std::string::npos;
  size_t shown = stopped_ ? first : pending_.size() - held_length();
  std::string out = pending_.substr(0, shown);
  pending_ = stopped_ ? "" : pending_.substr(shown);
  return out;
}

std::string StopFilter::finish() { return std::exchange(pending_, ""); }

// The longest end of pending_ that is the beginning of a stop text.
size_t StopFilter::held_length() const {
  size_t held = 0;
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n)
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) {
        held = n;
        break;
      }
  return held;
}

}  // namespace restkv
