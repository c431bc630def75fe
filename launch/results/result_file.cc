#include "launch/results/result_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dist/base/error.h"

namespace restkv {
namespace {

/// Whether `text` is one whole JSON object with the members that identify a result.
bool is_result(const std::string& text, nlohmann::json* out) {
  *out = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!out->is_object()) return false;
  auto is_text = [&](const char* key) { return out->contains(key) && (*out)[key].is_string(); };
  return is_text("config_hash") && is_text("request_hash");
}

}  // namespace

ResultFile::ResultFile(const std::string& path, const std::string& key) : path_(path), name_(key + " " + path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  if (error) fail_input("{}: cannot create its folder: {}", name_, error.message());
  fd_ = ::open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_input("{}: cannot open it for writing: {}", name_, std::strerror(errno));
  struct stat status {};
  regular_ = ::fstat(fd_, &status) == 0 && S_ISREG(status.st_mode);
  try {
    if (regular_ && ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      fail_input("{}: another run is writing to it; expected a file of this run alone", name_);
    if (regular_) read_held();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

ResultFile::~ResultFile() { ::close(fd_); }

void ResultFile::read_line(const std::string& line, int64_t number) {
  nlohmann::json object;
  if (!is_result(line, &object))
    fail_input("{}:{}: found a line that is no result of restkv; expected another file's name", name_, number);
  held_.emplace(object["config_hash"].get<std::string>(), object["request_hash"].get<std::string>());
}

void ResultFile::read_held() {
  std::ifstream in(path_, std::ios::binary);
  std::string line;
  int64_t whole = 0;  // bytes up to the last newline
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (in.eof()) break;  // no newline at its end
    read_line(line, number);
    whole += static_cast<int64_t>(line.size()) + 1;
    line.clear();
  }
  if (line.empty()) return;
  nlohmann::json object;
  if (is_result(line, &object)) {
    held_.emplace(object["config_hash"].get<std::string>(), object["request_hash"].get<std::string>());
    if (::write(fd_, "\n", 1) != 1) fail_input("{}: cannot write: {}", name_, std::strerror(errno));
    return;
  }
  // What a crash leaves is the beginning of a result. Anything else is not ours to cut.
  if (line[0] != '{' && line[0] != '\0')
    fail_input("{}: its last line is no result of restkv; expected another file's name", name_);
  torn_bytes_ = static_cast<int64_t>(line.size());
  if (::ftruncate(fd_, whole) != 0)
    fail_input("{}: cannot cut off its torn last line: {}", name_, std::strerror(errno));
}

void ResultFile::append(const std::string& line) {
  RESTKV_CHECK(line.find('\n') == std::string::npos, "a result of more than one line");
  std::string bytes = line + '\n';
  off_t before = regular_ ? ::lseek(fd_, 0, SEEK_END) : 0;
  ssize_t written = 0;
  do {
    written = ::write(fd_, bytes.data(), bytes.size());
  } while (written < 0 && errno == EINTR);
  int error = errno;
  if (written == static_cast<ssize_t>(bytes.size())) {
    // fsync of a pipe or a device is refused (EINVAL), and means nothing there.
    if (::fsync(fd_) == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP) return;
    error = errno;
  }
  bool cut = !regular_ || ::ftruncate(fd_, before) == 0;
  std::string why = written < 0 || written == static_cast<ssize_t>(bytes.size())
                        ? std::strerror(error)
                        : fmt::format("only {} of {} bytes were written (disk full?)", written, bytes.size());
  fail_input("{}: cannot write a result of {} bytes: {}; {}", name_, bytes.size(), why,
             cut ? "the results before it are kept; make room and start the same command again"
                 : "its last line may be torn; the same command cuts it off when it is started again");
}

}  // namespace restkv
