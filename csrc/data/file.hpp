#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fluxcore::data {

// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) noexcept : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  [[nodiscard]] int get() const noexcept { return fd_; }
  int release() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// A regular file open for reading. A symbolic link as the last part of the path is refused.
class ReadFile {
 public:
  explicit ReadFile(std::filesystem::path path);  // throws FileError

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] int descriptor() const noexcept { return fd_.get(); }
  // Throws CorruptShard when the file ends before `out` is full.
  void read_at(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  std::filesystem::path path_;
  Descriptor fd_;
  std::uint64_t size_ = 0;
};

// How a map is going to be read.
enum class Access : std::uint8_t { kNormal, kRandom };

// Read-only map of one file. Owns the mapping; cannot be copied.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);  // throws FileError
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})), is_writable_(other.is_writable_) {}
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }  // valid while *this lives

  // Hints to the kernel, which change no result; one that it does not take is as if not given. `part` lies in the map.
  void expect(Access access) const noexcept;
  void will_need(std::span<const std::byte> part) const noexcept;
  // Takes whole pages out of memory, where the map has brought them there and no other process uses them; false if the
  // kernel does not do that, as for a file that the process could not write to.
  [[nodiscard]] bool page_out(std::uint64_t offset, std::uint64_t size) const noexcept;
  // Takes whole pages out of the map, not out of memory.
  void forget(std::uint64_t offset, std::uint64_t size) const noexcept;
  // Whether the page where `part` begins is in memory; nothing of files that the kernel tells no others about.
  [[nodiscard]] std::optional<bool> is_resident(std::span<const std::byte> part) const noexcept;

 private:
  std::span<const std::byte> bytes_;
  bool is_writable_ = false;  // then the kernel tells which pages are in memory, and takes them out
};

// Takes pages of a file out of memory that no process has mapped; a hint, as those of a map.
void drop_cached(const std::filesystem::path& path, std::uint64_t offset, std::uint64_t size) noexcept;

// A file that appears under its name whole or not at all: written under a temporary name in the same folder, then
// synced, renamed, and the folder synced. Discarded or destroyed before `commit`, it takes its temporary file away; but
// not in a child that was forked meanwhile, for it is the parent's.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(AtomicFile&&) = delete;
  AtomicFile& operator=(AtomicFile&&) = delete;
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void pad_to(std::uint64_t alignment);  // zeros up to the next multiple
  // Replaces bytes that were appended before.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  void commit();
  void discard() noexcept;

 private:
  void flush();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  Descriptor fd_;
  std::vector<std::byte> buffer_;
  std::uint64_t size_ = 0;
  bool pending_ = true;
  long owner_;  // process id
};

}  // namespace fluxcore::data
