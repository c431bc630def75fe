// Generated text on its way out: token by token, ending before a stop text.
#pragma once

#include <string>
#include <vector>

namespace restkv {

/// Holds back what may turn out to be the beginning of a stop text.
class StopFilter {
 public:
  /// `stops`: none empty.
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Takes more text and returns what can be shown. Once a stop text is complete, stopped() is true, the text before
  /// it has been returned and everything after it is dropped.
  std::string push(const std::string& text);
  /// What was held back, at the end of the generation.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  size_t held_length() const;

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace restkv
