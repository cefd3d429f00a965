#include "data/shard.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "data/crc32c.hpp"
#include "data/errors.hpp"
#include "data/map_guard.hpp"

namespace fluxcore::data {

Shard::Shard(std::filesystem::path path, MapPool* pool) : path_(std::move(path)), map_(pool) {
  read_ends();
  tokens_ = find(SectionKind::tokens);
  mask_ = find(SectionKind::token_mask);
  chunk_crc_ = find(SectionKind::chunk_crc);
  next_token_ = find("next_token");
  valid_len_ = find("valid_len");
}

void Shard::read_ends() {
  const ReadFile file(path_);
  if (file.size() < kPage + kFooterBytes || file.size() > kMaxFileBytes) {
    throw CorruptShard(path_, "it has " + std::to_string(file.size()) + " bytes; it may have been cut short");
  }
  file.read_at(0, std::as_writable_bytes(std::span(&superblock_, 1)));
  file.read_at(file.size() - kFooterBytes, std::as_writable_bytes(std::span(&footer_, 1)));
  check_layout(superblock_, footer_, file.size(), path_);

  const Section& section = *find(SectionKind::names);
  std::vector<std::byte> names(section.length);
  file.read_at(section.offset, names);
  if (crc32c(names) != section.crc) throw CorruptShard(path_, "the CRC of the NAMES section does not match");
  names_ = decode_names(names, path_);
  check_columns(superblock_, names_, path_);
  const bool sidecar = superblock_.file_kind == FileKind::sidecar;
  if (sidecar && root_hash(superblock_, {}) != footer_.root) throw CorruptShard(path_, "the root hash does not match");
}

const Section* Shard::find(SectionKind kind) const noexcept {
  for (std::size_t s = 0; s < superblock_.section_count; ++s) {
    if (superblock_.sections[s].kind == kind) return &superblock_.sections[s];
  }
  return nullptr;
}

const Section* Shard::find(std::string_view name) const noexcept {
  for (std::size_t s = 0; s < superblock_.section_count; ++s) {
    const Section& section = superblock_.sections[s];
    if (section.kind == SectionKind::column && names_[section.name] == name) return &section;
  }
  return nullptr;
}

DataType Shard::column_type(std::string_view name) const noexcept {
  const Section* section = find(name);
  return section == nullptr ? DataType::none : section->type;
}

const MappedFile& Shard::file() const {
  if (const MappedFile* const mapped = map_.get(); mapped != nullptr) return *mapped;
  auto fresh = std::make_unique<const MappedFile>(path_);
  // The file may have been replaced or cut since it was opened; past its end a map is a SIGBUS, not an error.
  bool same = fresh->bytes().size() == footer_.file_length;
  const bool read =
      read_mapped([&] { same = same && std::memcmp(fresh->bytes().data(), &superblock_, sizeof superblock_) == 0; });
  if (!read) throw CorruptShard(path_, kUnreadable);
  if (!same) throw CorruptShard(path_, "it was changed after it was opened");
  const MappedFile& mapped = map_.keep(std::move(fresh));
  apply_access(mapped);
  return mapped;
}

// Once more where another thread has changed its mind meanwhile, so that the last word stands.
void Shard::apply_access(const MappedFile& mapped) const noexcept {
  for (Access access = access_.load();;) {
    mapped.expect(access);
    const Access now = access_.load();
    if (now == access) return;
    access = now;
  }
}

void Shard::expect(Access access) const {
  if (access_.exchange(access) == access) return;
  const MapHold held = hold();
  if (const MappedFile* const mapped = map_.get(); mapped != nullptr) apply_access(*mapped);
}

void Shard::will_need(std::uint64_t index, std::uint64_t count) const {
  const auto all = [&](auto part) {
    const std::span<const std::byte> first = part(index);
    if (!first.empty()) file().will_need({first.data(), first.size() * count});
  };
  all([this](std::uint64_t i) { return tokens(i); });
  all([this](std::uint64_t i) { return mask(i); });
}

void Shard::drop(std::uint64_t index, std::uint64_t count) const noexcept {
  const auto all = [&](const Section& section) {
    const std::uint64_t bytes = section.length / superblock_.chunk_count;
    drop_bytes(section.offset + index * bytes, count * bytes);
  };
  all(*tokens_);
  if (mask_ != nullptr) all(*mask_);
}

void Shard::drop_bytes(std::uint64_t offset, std::uint64_t size) const noexcept {
  const std::uint64_t first = offset / kPage * kPage;
  // The page that the next chunk goes on in is left to that one.
  const std::uint64_t end = std::max((offset + size) / kPage * kPage, first + kPage);
  const MapHold held = hold();
  const MappedFile* const mapped = map_.get();
  // A map that was made again knows nothing of the pages that were read through the one before it.
  if (is_lasting() && mapped != nullptr && mapped->page_out(first, end - first)) return;
  if (mapped != nullptr) mapped->forget(first, end - first);
  drop_cached(path_, first, end - first);
}

std::optional<bool> Shard::is_resident(std::uint64_t index) const { return file().is_resident(tokens(index)); }

std::span<const std::byte> Shard::raw(const Section& section) const {
  return map().subspan(section.offset, section.length);
}

std::span<const std::byte> Shard::checked(const Section* section) const {
  if (section == nullptr) return {};
  const std::span<const std::byte> bytes = raw(*section);
  std::atomic<std::uint8_t>& state = state_[static_cast<std::size_t>(section - superblock_.sections.data())];
  if (state.load(std::memory_order_acquire) == kSound) return bytes;
  file().will_need(bytes);  // in one piece, however the chunks are read
  std::uint32_t crc = 0;
  Bytes16 root = footer_.root;
  const bool read = read_mapped([&] {
    crc = crc32c(bytes);
    if (section == chunk_crc_) root = root_hash(superblock_, bytes);
  });
  if (!read) throw CorruptShard(path_, kUnreadable);
  if (crc != section->crc) {
    const bool named = section->kind == SectionKind::column;
    throw CorruptShard(
        path_, "the CRC of " + (named ? "column `" + names_[section->name] + "`" : "a section") + " does not match");
  }
  if (root != footer_.root) throw CorruptShard(path_, "the root hash does not match");
  state.store(kSound, std::memory_order_release);
  return bytes;
}

// Sections begin at a page, so that their items are aligned.
std::span<const std::uint32_t> Shard::checked_u32(const Section* section) const {
  const std::span<const std::byte> bytes = checked(section);
  return {reinterpret_cast<const std::uint32_t*>(bytes.data()), bytes.size() / sizeof(std::uint32_t)};
}

std::span<const std::byte> Shard::column(std::string_view name) const { return checked(find(name)); }

std::span<const std::uint32_t> Shard::next_tokens() const { return checked_u32(next_token_); }

std::span<const std::uint32_t> Shard::valid_lengths() const { return checked_u32(valid_len_); }

std::span<const std::byte> Shard::tokens(std::uint64_t index) const {
  const std::uint64_t bytes = size_of(superblock_.token_type) * superblock_.chunk_tokens;
  return map().subspan(tokens_->offset + index * bytes, bytes);
}

std::span<const std::byte> Shard::mask(std::uint64_t index) const {
  if (mask_ == nullptr) return {};
  const std::uint64_t bytes = mask_bytes(superblock_.chunk_tokens);
  return map().subspan(mask_->offset + index * bytes, bytes);
}

std::optional<bool> Shard::payload_matches(std::uint64_t index) const {
  const std::span<const std::byte> tokens = this->tokens(index);
  const std::span<const std::byte> mask = this->mask(index);
  const std::span<const std::uint32_t> crcs = chunk_crcs();
  bool matches = false;
  if (!read_mapped([&] { matches = crc32c(mask, crc32c(tokens)) == crcs[index]; })) return std::nullopt;
  return matches;
}

void Shard::check_sections() const {
  for (std::size_t s = 0; s < superblock_.section_count; ++s) {
    const Section& section = superblock_.sections[s];
    if (&section != tokens_ && &section != mask_) checked(&section);
    const std::uint64_t end = section.offset + section.length;
    const auto padding = map().subspan(end, round_up_to_page(end) - end);
    bool zero = false;
    const bool read =
        read_mapped([&] { zero = std::ranges::all_of(padding, [](std::byte b) { return b == std::byte{0}; }); });
    if (!read) throw CorruptShard(path_, kUnreadable);
    if (!zero) {
      throw CorruptShard(path_, "padding behind section " + std::to_string(s) + " is not zero");
    }
  }
}

}  // namespace fluxcore::data
