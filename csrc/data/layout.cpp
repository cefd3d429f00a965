#include "data/layout.hpp"

#include <cstring>

#include "data/crc32c.hpp"
#include "data/errors.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace fluxcore::data {
namespace {

template <class T>
std::span<const std::byte> bytes_before_crc(const T& block) noexcept {
  return std::as_bytes(std::span(&block, 1)).first(offsetof(T, crc));
}

}  // namespace

std::size_t size_of(DataType type) noexcept {
  switch (type) {
    case DataType::u8:
      return 1;
    case DataType::u16:
      return 2;
    case DataType::u32:
    case DataType::f32:
      return 4;
    case DataType::u64:
      return 8;
    case DataType::none:
      break;
  }
  return 0;
}

std::string_view name_of(DataType type) noexcept {
  static constexpr std::array<std::string_view, 6> kNames = {"none", "uint8", "uint16", "uint32", "uint64", "float32"};
  const auto index = static_cast<std::size_t>(type);
  return index < kNames.size() ? kNames[index] : "unknown";
}

std::uint64_t round_up_to_page(std::uint64_t bytes) noexcept { return (bytes + kPage - 1) / kPage * kPage; }

std::uint64_t mask_bytes(std::uint32_t chunk_tokens) noexcept { return (std::uint64_t{chunk_tokens} + 7) / 8; }

std::uint32_t crc_of(const Superblock& superblock) noexcept { return crc32c(bytes_before_crc(superblock)); }

std::uint32_t crc_of(const Footer& footer) noexcept { return crc32c(bytes_before_crc(footer)); }

Bytes16 root_hash(const Superblock& superblock, std::span<const std::byte> chunk_crcs) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, &superblock, sizeof superblock);
  XXH3_128bits_update(&state, chunk_crcs.data(), chunk_crcs.size());
  XXH128_canonical_t canonical = {};
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
  Bytes16 root = {};
  std::memcpy(root.data(), canonical.digest, root.size());
  return root;
}

DataType required_type(std::string_view column) noexcept {
  if (column == "source") return DataType::u16;
  if (column == "doc_id" || column == "original_index") return DataType::u64;
  if (column == "doc_offset" || column == "next_token" || column == "valid_len") return DataType::u32;
  return DataType::none;
}

std::string fault_of_name(std::string_view name) {
  if (name.empty()) return "it is empty";
  if (name.size() > kMaxNameBytes) return "it has " + std::to_string(name.size()) + " bytes, at most 128 are allowed";
  for (const char c : name) {
    if (c <= 0x20 || c >= 0x7F) return "it holds a character that is not printable ASCII, or a space";
  }
  return {};
}

std::vector<std::byte> encode_names(const std::vector<std::string>& names) {
  std::vector<std::byte> bytes;
  for (const std::string& name : names) {
    bytes.push_back(static_cast<std::byte>(name.size()));
    for (const char c : name) bytes.push_back(static_cast<std::byte>(c));
  }
  return bytes;
}

std::vector<std::string> decode_names(std::span<const std::byte> bytes, const std::filesystem::path& path) {
  std::vector<std::string> names;
  while (!bytes.empty()) {
    const auto size = static_cast<std::size_t>(bytes.front());
    if (size >= bytes.size()) throw CorruptShard(path, "a column name runs past the end of the NAMES section");
    std::string name(size, '\0');
    std::memcpy(name.data(), bytes.data() + 1, size);
    if (const std::string fault = fault_of_name(name); !fault.empty()) {
      throw CorruptShard(path, "a column name is not allowed: " + fault);
    }
    for (const std::string& earlier : names) {
      if (earlier == name) throw CorruptShard(path, "two columns are named `" + name + "`");
    }
    names.push_back(std::move(name));
    bytes = bytes.subspan(1 + size);
  }
  return names;
}

}  // namespace fluxcore::data
