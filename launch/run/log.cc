#include "launch/run/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace restkv {

Log::Log(int rank, int size) {
  std::string name = size > 1 ? fmt::format("restkv rank {}", rank) : "restkv";
  logger_ = std::make_unique<spdlog::logger>(name, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger_->set_pattern(size > 1 && rank > 0 ? "[%H:%M:%S] %n: %l: %v" : "[%H:%M:%S] %v");
  logger_->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger_->flush_on(spdlog::level::info);
}

Log::~Log() = default;

void Log::write_info(const std::string& text) { logger_->info("{}", text); }
void Log::write_warning(const std::string& text) { logger_->warn("{}", text); }

}  // namespace restkv
