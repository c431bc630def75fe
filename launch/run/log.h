// Log lines on standard error, from rank 0 (warnings from every rank, with its number).
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>

namespace spdlog {
class logger;
}

namespace restkv {

class Log {
 public:
  explicit Log(int rank, int size);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) {
    write_info(fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    write_warning(fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  void write_info(const std::string& text);
  void write_warning(const std::string& text);

  std::unique_ptr<spdlog::logger> logger_;
};

}  // namespace restkv
