// The output file: one JSON line per finished request, appended whole or not at all.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <utility>

namespace restkv {

class ResultFile {
 public:
  /// Opens (or creates, with its folders) `path` for appending and locks it for the life of this object. A torn last
  /// line, as a crash or a full disk may leave it, is cut off (a complete one that only lacks its newline is kept).
  /// Throws InputError when the file cannot be opened, another run writes to it, or it holds other lines than results.
  /// `key`: the configuration's key that names the file, for messages.
  explicit ResultFile(const std::string& path, const std::string& key = "output.file");
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  const std::string& path() const { return path_; }

  /// Whether a line with these "config_hash" and "request_hash" was in the file when it was opened.
  bool holds(const std::string& config_hash, const std::string& request_hash) const {
    return held_.contains({config_hash, request_hash});
  }
  /// Bytes of the torn line that was cut off; 0 when there was none.
  int64_t torn_bytes() const { return torn_bytes_; }

  /// Appends `line` and a newline in one write and waits until they are on the disk. Throws InputError when they do
  /// not fit; the file then still holds exactly the lines that it held before.
  void append(const std::string& line);

 private:
  void read_held();
  void read_line(const std::string& line, int64_t number);

  std::string path_;
  std::string name_;  // "output.file results/run.jsonl", for messages
  int fd_ = -1;
  bool regular_ = false;  // a device or a pipe holds nothing to resume from, and cannot be cut
  int64_t torn_bytes_ = 0;
  std::set<std::pair<std::string, std::string>> held_;
};

}  // namespace restkv
