#include "data/shard_set.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "data/errors.hpp"
#include "data/map_guard.hpp"

namespace fluxcore::data {
namespace {

void check_entry(const Shard& shard, const SetSpec& spec, const ShardEntry& entry, std::size_t number) {
  const Superblock& block = shard.superblock();
  const auto need = [&](bool holds, const char* what) {
    if (!holds) throw CorruptShard(shard.path(), std::string(what) + " is not the one that the manifest lists");
  };
  need(block.file_kind == FileKind::shard, "its kind");
  need(block.uuid == spec.uuid, "its data set (UUID)");
  need(block.shard_number == number, "its number");
  need(shard.size() == entry.bytes, "its size");
  need(block.chunk_count == entry.chunks, "its number of chunks");
  need(shard.root() == entry.root, "its root hash");
  need(block.token_type == spec.token_type, "its token type");
  need(block.chunk_tokens == spec.chunk_tokens, "its chunk length");
  need(block.vocab_size == spec.vocab_size, "its vocabulary size");
  need(block.tokenizer == spec.tokenizer, "its tokenizer");
  const std::string sorted_by = block.sort_name == kNoName ? std::string() : shard.column_names()[block.sort_name];
  need(sorted_by == spec.sort_column && (block.sort_descending == 1) == spec.sort_descending, "its order");
}

// The first token of a chunk that is not below `vocab_size`, or its length.
template <class Token>
std::size_t first_foreign(std::span<const std::byte> bytes, std::uint64_t vocab_size) {
  const std::span tokens(reinterpret_cast<const Token*>(bytes.data()), bytes.size() / sizeof(Token));
  // Without an early exit this is a vector maximum; the position is looked up only where it is needed.
  Token top = 0;
  for (const Token token : tokens) top = std::max(top, token);
  if (top < vocab_size) return tokens.size();
  const auto found = std::find_if(tokens.begin(), tokens.end(), [&](Token token) { return token >= vocab_size; });
  return static_cast<std::size_t>(found - tokens.begin());
}

std::size_t first_foreign(std::span<const std::byte> bytes, TokenType type, std::uint64_t vocab_size) {
  if (type == TokenType::u8) return first_foreign<std::uint8_t>(bytes, vocab_size);
  if (type == TokenType::u16) return first_foreign<std::uint16_t>(bytes, vocab_size);
  return first_foreign<std::uint32_t>(bytes, vocab_size);
}

// What is wrong with the values of chunk `i`, or nothing.
std::string fault_of_values(const Shard& shard, const SetSpec& spec, std::uint64_t i) {
  const std::span<const std::byte> tokens = shard.tokens(i);
  const std::span<const std::uint32_t> next_tokens = shard.next_tokens();
  const std::span<const std::uint32_t> lengths = shard.valid_lengths();
  std::size_t foreign = 0;
  std::uint32_t next = kNoToken;
  std::uint32_t length = spec.chunk_tokens;
  bool padded = true;
  const bool read = read_mapped([&] {
    foreign = first_foreign(tokens, spec.token_type, spec.vocab_size);
    next = next_tokens[i];
    if (!lengths.empty()) length = lengths[i];
    if (length > spec.chunk_tokens) return;
    const auto padding = tokens.subspan(length * size_of(spec.token_type));
    padded = std::ranges::all_of(padding, [](std::byte b) { return b == std::byte{0}; });
  });
  if (!read) return kUnreadable;
  if (foreign < spec.chunk_tokens) return "token " + std::to_string(foreign) + " is not below the vocabulary size";
  if (next != kNoToken && next >= spec.vocab_size) return "its next token is not below the vocabulary size";
  if (length < 1 || length > spec.chunk_tokens) return "its valid length is out of range";
  return padded ? std::string() : "its padding is not zero";
}

}  // namespace

ShardSet::ShardSet(const std::filesystem::path& folder, SetSpec spec, const std::vector<ShardEntry>& entries,
                   std::shared_ptr<MapPool> pool)
    : spec_(std::move(spec)), room_(std::move(pool), entries.size()) {
  // Absolute, because files are mapped later and the working folder may change.
  const std::filesystem::path root = std::filesystem::absolute(folder);
  shards_.reserve(entries.size());
  for (const ShardEntry& entry : entries) {
    shards_.push_back(std::make_unique<const Shard>(root / entry.name, room_.pool()));
    check_entry(*shards_.back(), spec_, entry, shards_.size() - 1);
    bases_.push_back(bases_.back() + entry.chunks);
  }
}

ChunkPlace ShardSet::place(std::uint64_t chunk_id) const {
  if (chunk_id >= chunk_count()) {
    throw std::out_of_range("chunk id " + std::to_string(chunk_id) + " is out of range, the data set has " +
                            std::to_string(chunk_count()) + " chunks");
  }
  const auto above = std::ranges::upper_bound(bases_, chunk_id);
  const auto number = static_cast<std::size_t>(above - bases_.begin()) - 1;
  const Shard* const shard = shards_[number].get();
  return {.shard = shard, .index = chunk_id - bases_[number], .held = shard->hold()};
}

void ShardSet::fail(std::uint64_t chunk_id, const std::string& why) const {
  const ChunkPlace at = place(chunk_id);
  std::uint64_t document = CorruptShard::kUnknown;
  try {
    const std::span<const std::byte> stored = at.shard->column("doc_id").subspan(8 * at.index, 8);
    if (!read_mapped([&] { std::memcpy(&document, stored.data(), 8); })) document = CorruptShard::kUnknown;
  } catch (const CorruptShard&) {
    document = CorruptShard::kUnknown;  // the column is damaged too; the chunk is what the caller asked for
  }
  throw CorruptShard(at.shard->path(), why, chunk_id, document);
}

void ShardSet::check_payload(std::uint64_t chunk_id) const {
  const ChunkPlace at = place(chunk_id);
  const std::optional<bool> matches = at.shard->payload_matches(at.index);
  if (!matches) fail(chunk_id, kUnreadable);
  if (!*matches) fail(chunk_id, kChanged);
}

void ShardSet::verify_shard(std::size_t number) const {
  const Shard& shard = this->shard(number);
  const MapHold held = shard.hold();
  shard.check_sections();
  for (std::uint64_t i = 0; i < shard.superblock().chunk_count; ++i) {
    check_payload(base(number) + i);
    if (const std::string fault = fault_of_values(shard, spec_, i); !fault.empty()) fail(base(number) + i, fault);
  }
}

}  // namespace fluxcore::data
