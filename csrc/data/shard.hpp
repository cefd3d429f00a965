#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/file.hpp"
#include "data/layout.hpp"
#include "data/map_pool.hpp"

namespace fluxcore::data {

// One shard or sidecar file. Opening reads its first page, its names and its last 64 bytes; the file is mapped when
// another byte is first asked for, and each section is checked when it is first touched. Safe to share between
// threads and across a fork (two threads may check the same section, with one result).
//
// With a pool the map may be let go and made again: whoever asks for bytes holds the shard as long as they are read.
// The superblock has the CRC of each section and is compared whenever the file is mapped, so a section stays checked.
class Shard {
 public:
  // `pool`: outlives the shard; nullptr: the map is kept. Throws FileError, CorruptShard, UnsupportedFormat.
  explicit Shard(std::filesystem::path path, MapPool* pool = nullptr);
  ~Shard() = default;
  Shard(Shard&&) = delete;
  Shard& operator=(Shard&&) = delete;
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  [[nodiscard]] MapHold hold() const noexcept { return MapHold(map_); }
  bool is_lasting() const noexcept { return map_.is_lasting(); }  // bytes stay where they are without being held

  const std::filesystem::path& path() const noexcept { return path_; }
  const Superblock& superblock() const noexcept { return superblock_; }
  const Bytes16& root() const noexcept { return footer_.root; }
  std::uint64_t size() const noexcept { return footer_.file_length; }
  const std::vector<std::string>& column_names() const noexcept { return names_; }
  DataType column_type(std::string_view name) const noexcept;  // `none` where there is no such column

  // The payload as it stands on disk, unchecked; `index` counts within the shard and must be in range.
  std::span<const std::byte> tokens(std::uint64_t index) const;
  std::span<const std::byte> mask(std::uint64_t index) const;  // empty where the shard has no mask
  // Hints about what is read next; see MappedFile.
  void expect(Access access) const;  // from now on, also where the file is mapped later
  // These map the file, which can throw as reading it does.
  void will_need(std::uint64_t index, std::uint64_t count) const;
  std::optional<bool> is_resident(std::uint64_t index) const;
  // Gives back the pages that hold these chunks and nothing behind them; one at least.
  void drop(std::uint64_t index, std::uint64_t count) const noexcept;
  // Whether the payload has the CRC that was written with it; nothing where it cannot be read any more.
  std::optional<bool> payload_matches(std::uint64_t index) const;
  std::span<const std::uint32_t> chunk_crcs() const { return checked_u32(chunk_crc_); }  // throws CorruptShard

  // All items of a column, checked; empty where there is no such column. Throws CorruptShard.
  std::span<const std::byte> column(std::string_view name) const;
  std::span<const std::uint32_t> next_tokens() const;
  std::span<const std::uint32_t> valid_lengths() const;  // empty: every chunk is full

  // Reads the whole file: section CRCs, padding, root hash. Chunks are the caller's to go through. Throws CorruptShard.
  void check_sections() const;

 private:
  enum : std::uint8_t { kUntouched = 0, kSound = 1 };

  void read_ends();
  const Section* find(std::string_view name) const noexcept;
  const Section* find(SectionKind kind) const noexcept;
  const MappedFile& file() const;
  void drop_bytes(std::uint64_t offset, std::uint64_t size) const noexcept;
  void apply_access(const MappedFile& mapped) const noexcept;
  std::span<const std::byte> map() const { return file().bytes(); }
  std::span<const std::byte> raw(const Section& section) const;
  std::span<const std::byte> checked(const Section* section) const;
  std::span<const std::uint32_t> checked_u32(const Section* section) const;

  std::filesystem::path path_;
  Superblock superblock_;
  Footer footer_;
  std::vector<std::string> names_;
  const Section* tokens_ = nullptr;
  const Section* mask_ = nullptr;
  const Section* chunk_crc_ = nullptr;
  const Section* next_token_ = nullptr;
  const Section* valid_len_ = nullptr;
  mutable PooledMap map_;
  mutable std::atomic<Access> access_ = Access::kNormal;
  mutable std::array<std::atomic<std::uint8_t>, kMaxSections> state_ = {};
};

}  // namespace fluxcore::data
