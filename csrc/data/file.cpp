#include "data/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "data/errors.hpp"
#include "data/layout.hpp"

namespace fluxcore::data {
namespace {

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

void write_all(int fd, std::uint64_t offset, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t done = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0) {
      if (errno == EINTR) continue;
      throw_errno("cannot write", path);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

void sync_folder(const std::filesystem::path& folder) {
  const Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) throw_errno("cannot open folder", folder);
  // Some network file systems cannot sync a folder and say EINVAL; the rename is then as durable as they make it.
  if (::fsync(fd.get()) != 0 && errno != EINVAL) throw_errno("cannot sync folder", folder);
}

bool advise(std::span<const std::byte> bytes, int advice) noexcept {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): madvise takes a pointer to non-const.
  return bytes.empty() || ::madvise(const_cast<std::byte*>(bytes.data()), bytes.size(), advice) == 0;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

// O_NONBLOCK: opening a FIFO must not hang; it has no effect on a regular file.
ReadFile::ReadFile(std::filesystem::path path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)) {
  if (fd_.get() < 0) throw_errno(errno == ELOOP ? "a symbolic link is not followed" : "cannot open", path_);
  struct stat status = {};
  if (::fstat(fd_.get(), &status) != 0) throw_errno("cannot stat", path_);
  if (!S_ISREG(status.st_mode)) {
    errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    throw_errno("not a regular file", path_);
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

void ReadFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t done = ::pread(fd_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (done < 0) {
      if (errno == EINTR) continue;
      throw_errno("cannot read", path_);
    }
    if (done == 0) throw CorruptShard(path_, "the file ends at byte " + std::to_string(offset));
    out = out.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const ReadFile file(path);
  if (file.size() == 0) return;  // an empty map is not allowed
  void* start = ::mmap(nullptr, file.size(), PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (start == MAP_FAILED) throw_errno("cannot map", path);
  bytes_ = {static_cast<const std::byte*>(start), file.size()};
  is_writable_ = ::access(path.c_str(), W_OK) == 0;
}

MappedFile::~MappedFile() {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): munmap takes a pointer to non-const.
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::expect(Access access) const noexcept {
  advise(bytes_, access == Access::kRandom ? MADV_RANDOM : MADV_NORMAL);
}

void MappedFile::will_need(std::span<const std::byte> part) const noexcept {
  const std::size_t before = static_cast<std::size_t>(part.data() - bytes_.data()) % kPage;
  advise({part.data() - before, part.size() + before}, MADV_WILLNEED);
}

bool MappedFile::page_out(std::uint64_t offset, std::uint64_t size) const noexcept {
  return is_writable_ && advise(bytes_.subspan(offset, size), MADV_PAGEOUT);
}

void MappedFile::forget(std::uint64_t offset, std::uint64_t size) const noexcept {
  advise(bytes_.subspan(offset, size), MADV_DONTNEED);
}

void drop_cached(const std::filesystem::path& path, std::uint64_t offset, std::uint64_t size) noexcept {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (fd.get() >= 0) {
    ::posix_fadvise(fd.get(), static_cast<off_t>(offset), static_cast<off_t>(size), POSIX_FADV_DONTNEED);
  }
}

std::optional<bool> MappedFile::is_resident(std::span<const std::byte> part) const noexcept {
  if (!is_writable_) return std::nullopt;
  const std::size_t before = static_cast<std::size_t>(part.data() - bytes_.data()) % kPage;
  unsigned char page = 0;
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): mincore takes a pointer to non-const.
  if (::mincore(const_cast<std::byte*>(part.data() - before), 1, &page) != 0) return std::nullopt;
  return (page & 1U) != 0;
}

AtomicFile::AtomicFile(std::filesystem::path path)
    : path_(std::move(path)),
      temporary_(folder_of(path_) / ("." + path_.filename().string() + "." + std::to_string(::getpid()) + ".tmp")),
      fd_(::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666)),
      owner_(::getpid()) {
  if (fd_.get() < 0) throw_errno("cannot create", path_);
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (pending_ && ::getpid() == owner_) ::unlink(temporary_.c_str());
  pending_ = false;
}

void AtomicFile::flush() {
  write_all(fd_.get(), size_ - buffer_.size(), buffer_, path_);
  buffer_.clear();
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    write_all(fd_.get(), size_, bytes, path_);
  } else {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  size_ += bytes.size();
}

void AtomicFile::pad_to(std::uint64_t alignment) {
  const std::uint64_t over = size_ % alignment;
  if (over == 0) return;
  append(std::vector<std::byte>(alignment - over));
}

void AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  flush();
  write_all(fd_.get(), offset, bytes, path_);
}

void AtomicFile::commit() {
  flush();
  if (::fsync(fd_.get()) != 0) throw_errno("cannot sync", path_);
  if (::close(fd_.release()) != 0) throw_errno("cannot close", path_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_errno("cannot publish", path_);
  pending_ = false;
  sync_folder(folder_of(path_));
}

}  // namespace fluxcore::data
