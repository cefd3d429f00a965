#pragma once

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>

namespace fluxcore::data {

// Bytes on disk are not what was written. Chunk and document are known only where the fault lies within one.
class CorruptShard : public std::runtime_error {
 public:
  static constexpr std::uint64_t kUnknown = ~std::uint64_t{0};

  CorruptShard(const std::filesystem::path& path, const std::string& why);
  CorruptShard(const std::filesystem::path& path, const std::string& why, std::uint64_t chunk, std::uint64_t document);

  [[nodiscard]] const std::string& shard() const noexcept { return shard_; }
  [[nodiscard]] std::uint64_t chunk() const noexcept { return chunk_; }        // id within the data set, or kUnknown
  [[nodiscard]] std::uint64_t document() const noexcept { return document_; }  // or kUnknown

 private:
  std::string shard_;
  std::uint64_t chunk_ = kUnknown;
  std::uint64_t document_ = kUnknown;
};

// Why a part of a file that was open cannot be read any more.
inline constexpr const char* kUnreadable =
    "it cannot be read: the file was cut after it was opened, or the disk failed";
inline constexpr const char* kChanged = "the CRC of its tokens does not match";

// A sound file that this version cannot read: a newer major version, or a feature it does not know.
class UnsupportedFormat : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// What the system refused to do, to which path, and its error code.
class FileError : public std::filesystem::filesystem_error {
 public:
  FileError(const std::string& what, const std::filesystem::path& path, std::error_code code)
      : filesystem_error(what, path, code), action_(what) {}

  [[nodiscard]] const std::string& action() const noexcept { return action_; }  // for example "cannot write"

 private:
  std::string action_;
};

// A FileError with the current errno.
[[noreturn]] void throw_errno(const std::string& what, const std::filesystem::path& path);

}  // namespace fluxcore::data
