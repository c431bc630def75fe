#include "model/weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "dist/base/error.h"

namespace restkv {
namespace {

/// Closes a file descriptor at the end of its scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) fail_input("{}: cannot open: {}", path, std::strerror(errno));
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) fail_input("{}: cannot read its size: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail_input("{}: not a regular file", path);
  size_ = status.st_size;
  if (size_ == 0) return;  // an empty mapping is an error of mmap; readers report the missing header
  void* p = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (p == MAP_FAILED) fail_input("{}: cannot map {} bytes: {}", path, size_, std::strerror(errno));
  data_ = static_cast<std::byte*>(p);
  fd_ = fd.release();
}

MappedFile::~MappedFile() {
  if (fd_ >= 0) ::close(fd_);
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(size_));
}

void MappedFile::read(int64_t offset, int64_t bytes, void* to) const {
  RESTKV_CHECK(offset >= 0 && bytes >= 0 && offset <= size_ - bytes, "{}: {} bytes at {} of {}", path_, bytes, offset,
               size_);
  for (int64_t done = 0; done < bytes;) {
    const ssize_t n = ::pread(fd_, static_cast<std::byte*>(to) + done, static_cast<size_t>(bytes - done),
                              static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_input("{}: cannot read {} bytes at {}: {}", path_, bytes, offset, std::strerror(errno));
    if (n == 0) fail_input("{}: ends at byte {}; it had {} when it was opened", path_, offset + done, size_);
    done += n;
  }
}

void MappedFile::will_need(const std::byte* p, int64_t bytes) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  int64_t begin = (p - data_) / page * page;
  int64_t end = (p - data_) + bytes;
  if (end > begin) ::madvise(data_ + begin, static_cast<size_t>(end - begin), MADV_WILLNEED);
}

void MappedFile::release(const std::byte* p, int64_t bytes) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  int64_t begin = ((p - data_) + page - 1) / page * page;
  int64_t end = ((p - data_) + bytes) / page * page;
  if (end > begin) ::madvise(data_ + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
}

}  // namespace restkv
