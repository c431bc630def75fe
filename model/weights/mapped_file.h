// A whole file, mapped read-only, and read without the map where bytes are only copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace restkv {

class MappedFile {
 public:
  /// Throws InputError naming the file when it cannot be opened or mapped, or is not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }

  /// Copies [offset, offset + bytes) of the file to `to`. May be called from several threads at once. Unlike a copy out
  /// of the map it costs no page faults: on machines with many cores these, not the disk, bound the rate at which
  /// weights load. Throws InputError when the file has become shorter or cannot be read.
  void read(int64_t offset, int64_t bytes, void* to) const;

  /// Asks the kernel to read [p, p + bytes) ahead.
  void will_need(const std::byte* p, int64_t bytes) const;
  /// Unmaps the whole pages inside [p, p + bytes) from this process; they stay in the page cache, and a later access
  /// maps them again. Keeps a rank's resident memory at what it copied out.
  void release(const std::byte* p, int64_t bytes) const;

 private:
  std::string path_;
  int fd_ = -1;
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace restkv
