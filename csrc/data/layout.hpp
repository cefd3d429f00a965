#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The bytes of a shard file, format 1.0; docs/shard_format.md is its description.
//
//   SUPERBLOCK 4096 B | sections, each at a multiple of 4096, zero padded | FOOTER 64 B        little-endian
namespace fluxcore::data {

static_assert(std::endian::native == std::endian::little, "shards are little-endian and are read in place");

using Bytes16 = std::array<std::uint8_t, 16>;

inline constexpr std::uint64_t kPage = 4096;
inline constexpr std::uint64_t kFooterBytes = 64;
inline constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 40;
inline constexpr std::uint32_t kMaxChunkTokens = std::uint32_t{1} << 24;
inline constexpr std::uint64_t kMaxVocabulary = 0xFFFFFFFF;  // so that kNoToken is no token
inline constexpr std::size_t kMaxSections = 128;
inline constexpr std::size_t kMaxNameBytes = 128;
inline constexpr std::uint16_t kNoName = 0xFFFF;
inline constexpr std::uint32_t kNoToken = 0xFFFFFFFF;

inline constexpr std::array<std::uint8_t, 8> kShardMagic = {0x89, 'F', 'X', 'S', '\r', '\n', 0x1A, '\n'};
inline constexpr std::array<std::uint8_t, 8> kFooterMagic = {0x89, 'F', 'X', 'E', '\r', '\n', 0x1A, '\n'};

enum class FileKind : std::uint8_t { shard = 1, sidecar = 2 };
enum class SectionKind : std::uint8_t { names = 1, tokens = 2, chunk_crc = 3, column = 4, token_mask = 5 };
enum class DataType : std::uint8_t { none = 0, u8 = 1, u16 = 2, u32 = 3, u64 = 4, f32 = 5 };
using TokenType = DataType;  // u8, u16 or u32

// Bytes of one item; 0 for `none` and for a value that is no DataType.
std::size_t size_of(DataType type) noexcept;
std::string_view name_of(DataType type) noexcept;

struct Section {
  SectionKind kind = {};
  DataType type = {};
  std::uint16_t name = 0;  // index into the NAMES section, or kNoName
  std::uint32_t crc = 0;   // of the bytes without padding; 0 for TOKENS and TOKEN_MASK, which CHUNK_CRC covers
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  // without padding
};
static_assert(sizeof(Section) == 24);

struct Superblock {
  std::array<std::uint8_t, 8> magic = kShardMagic;
  std::uint16_t major = 1;
  std::uint16_t minor = 0;
  FileKind file_kind = FileKind::shard;
  TokenType token_type = TokenType::u16;
  std::uint16_t section_count = 0;
  std::uint64_t compatible = 0;            // unknown bits: ignore
  std::uint64_t read_only_compatible = 0;  // unknown bits: read, never extend
  std::uint64_t incompatible = 0;          // unknown bits: refuse
  Bytes16 uuid = {};                       // of the data set
  std::uint32_t shard_number = 0;
  std::uint32_t chunk_tokens = 0;
  std::uint64_t vocab_size = 0;
  std::uint64_t chunk_count = 0;
  Bytes16 tokenizer = {};  // fingerprint; zeros: unknown
  Bytes16 parent = {};     // sidecar: root hash of its shard; shard: zeros
  std::uint16_t sort_name = kNoName;
  std::uint8_t sort_descending = 0;
  std::uint8_t sort_nan_last = 0;  // 1 where sort_name is set
  std::array<std::uint8_t, 396> reserved = {};
  std::array<Section, kMaxSections> sections = {};
  std::array<std::uint8_t, 508> reserved_end = {};
  std::uint32_t crc = 0;  // of all bytes before it
};
static_assert(sizeof(Superblock) == kPage && offsetof(Superblock, sections) == 512 &&
              offsetof(Superblock, crc) == 4092);

struct Footer {
  std::array<std::uint8_t, 8> magic = kFooterMagic;
  std::uint64_t file_length = 0;
  Bytes16 root = {};  // xxh3-128 over the superblock and the CHUNK_CRC section, canonical (big-endian) form
  std::array<std::uint8_t, 28> reserved = {};
  std::uint32_t crc = 0;  // of all bytes before it
};
static_assert(sizeof(Footer) == kFooterBytes);

std::uint64_t round_up_to_page(std::uint64_t bytes) noexcept;
std::uint64_t mask_bytes(std::uint32_t chunk_tokens) noexcept;  // of one chunk
std::uint32_t crc_of(const Superblock& superblock) noexcept;
std::uint32_t crc_of(const Footer& footer) noexcept;
// `chunk_crcs` is empty for a sidecar.
Bytes16 root_hash(const Superblock& superblock, std::span<const std::byte> chunk_crcs);

// The column that every shard has under this name has this type; `none` for a name that is free to use.
DataType required_type(std::string_view column) noexcept;
// Why `name` cannot name a column, or empty.
std::string fault_of_name(std::string_view name);

std::vector<std::byte> encode_names(const std::vector<std::string>& names);
// Throws CorruptShard.
std::vector<std::string> decode_names(std::span<const std::byte> bytes, const std::filesystem::path& path);

// Checks the first page and the last 64 bytes of a file of `file_length` bytes: every rule that needs no other byte.
// Throws CorruptShard or UnsupportedFormat.
void check_layout(const Superblock& superblock, const Footer& footer, std::uint64_t file_length,
                  const std::filesystem::path& path);
// The rules that join the section table with the names. Throws CorruptShard.
void check_columns(const Superblock& superblock, const std::vector<std::string>& names,
                   const std::filesystem::path& path);

}  // namespace fluxcore::data
