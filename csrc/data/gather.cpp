#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "data/errors.hpp"
#include "data/map_guard.hpp"
#include "data/shard_set.hpp"

namespace fluxcore::data {
namespace {

struct OutTypeInfo {
  std::string_view name;
  std::size_t size;
  std::uint64_t ids;  // how many token ids it can hold
};

constexpr std::array<OutTypeInfo, 5> kOutTypes = {{
    {.name = "uint8", .size = 1, .ids = std::uint64_t{1} << 8},
    {.name = "uint16", .size = 2, .ids = std::uint64_t{1} << 16},
    {.name = "uint32", .size = 4, .ids = std::uint64_t{1} << 32},
    {.name = "int32", .size = 4, .ids = std::uint64_t{1} << 31},
    {.name = "int64", .size = 8, .ids = std::uint64_t{1} << 63},
}};

const OutTypeInfo& info(OutType type) { return kOutTypes[static_cast<std::size_t>(type)]; }

struct Chunk {
  std::span<const std::byte> tokens;
  std::span<const std::byte> mask;
  std::uint32_t valid_len;
  std::uint32_t next_token;
};

template <class Token, class Out>
void copy_chunk(const Chunk& chunk, Out* tokens, Out* targets) {
  constexpr Out kNoTarget = std::is_signed_v<Out> ? static_cast<Out>(-100) : Out{0};
  const auto* in = reinterpret_cast<const Token*>(chunk.tokens.data());
  const std::size_t size = chunk.tokens.size() / sizeof(Token);
  for (std::size_t t = 0; t < size; ++t) tokens[t] = static_cast<Out>(in[t]);
  if (targets == nullptr) return;
  const std::size_t last = chunk.valid_len - 1;
  for (std::size_t t = 0; t < last; ++t) targets[t] = static_cast<Out>(in[t + 1]);
  targets[last] = chunk.next_token == kNoToken ? kNoTarget : static_cast<Out>(chunk.next_token);
  std::fill(targets + last + 1, targets + size, kNoTarget);
  for (std::size_t t = 0; t < size && !chunk.mask.empty(); ++t) {
    const bool counts = ((static_cast<unsigned>(chunk.mask[t / 8]) >> (t % 8)) & 1U) != 0;
    if (!counts) targets[t] = kNoTarget;
  }
}

using CopyChunk = void (*)(const Chunk&, void* tokens, void* targets);

template <class Token, class Out>
void copy_erased(const Chunk& chunk, void* tokens, void* targets) {
  copy_chunk<Token>(chunk, static_cast<Out*>(tokens), static_cast<Out*>(targets));
}

template <class Token>
CopyChunk copy_to(OutType out) {
  switch (out) {
    case OutType::u8:
      return copy_erased<Token, std::uint8_t>;
    case OutType::u16:
      return copy_erased<Token, std::uint16_t>;
    case OutType::u32:
      return copy_erased<Token, std::uint32_t>;
    case OutType::i32:
      return copy_erased<Token, std::int32_t>;
    case OutType::i64:
      break;
  }
  return copy_erased<Token, std::int64_t>;
}

// A chunk that is soon read: its first bytes are asked for while the one before it is in work.
class Upcoming {
 public:
  Upcoming(const ChunkPlace& at, bool verify, bool targets) : tokens_(at.shard->tokens(at.index)) {
    if (verify) prefetch(&at.shard->chunk_crcs()[at.index]);
    if (targets) prefetch(&at.shard->next_tokens()[at.index]);
  }

  [[nodiscard]] const std::byte* tokens() const { return tokens_.data(); }

  void prefetch_tokens() const {
    const std::size_t bytes = std::min(tokens_.size(), kPage);
    for (std::size_t at = 0; at < bytes; at += kLine) prefetch(tokens_.data() + at);
  }

 private:
  static constexpr std::size_t kLine = 64;

  static void prefetch(const void* address) { __builtin_prefetch(address); }

  std::span<const std::byte> tokens_;
};

CopyChunk copier(TokenType token, OutType out) {
  if (token == TokenType::u8) return copy_to<std::uint8_t>(out);
  if (token == TokenType::u16) return copy_to<std::uint16_t>(out);
  return copy_to<std::uint32_t>(out);
}

}  // namespace

std::size_t size_of(OutType type) noexcept { return info(type).size; }

OutType out_type_from_name(std::string_view name) {
  for (std::size_t t = 0; t < kOutTypes.size(); ++t) {
    if (kOutTypes[t].name == name) return static_cast<OutType>(t);
  }
  throw std::invalid_argument("`out` must be one of uint8, uint16, uint32, int32, int64, got `" + std::string(name) +
                              "`");
}

void ShardSet::gather(std::span<const std::uint64_t> chunk_ids, const GatherOut& out, bool verify) const {
  if (vocab_size() > info(out.type).ids) {
    throw std::invalid_argument("`out` must hold every token of a vocabulary of " + std::to_string(vocab_size()) +
                                ", got " + std::string(info(out.type).name) + "\n\nUse out=\"int64\".");
  }
  const CopyChunk copy = copier(token_type(), out.type);
  const std::uint64_t row_bytes = chunk_tokens() * size_of(out.type);
  auto* tokens = static_cast<std::byte*>(out.tokens);
  auto* targets = static_cast<std::byte*>(out.targets);
  ChunkPlace next = chunk_ids.empty() ? ChunkPlace{} : place(chunk_ids.front());
  for (std::size_t row = 0; row < chunk_ids.size(); ++row) {
    const std::uint64_t id = chunk_ids[row];
    const ChunkPlace at = next;
    next = place(chunk_ids[std::min(row + 1, chunk_ids.size() - 1)]);
    const Upcoming upcoming(next, verify, targets != nullptr);
    // The check also brings the chunk into the nearest cache, from where the copy takes it.
    if (verify) {
      check_payload(id, at, upcoming.tokens());
    } else {
      upcoming.prefetch_tokens();
    }
    Chunk chunk = {
        .tokens = at.shard->tokens(at.index), .mask = {}, .valid_len = chunk_tokens(), .next_token = kNoToken};
    std::span<const std::uint32_t> next_tokens;
    std::span<const std::uint32_t> lengths;
    if (targets != nullptr) {
      chunk.mask = at.shard->mask(at.index);
      next_tokens = at.shard->next_tokens();
      lengths = at.shard->valid_lengths();
    }
    bool in_range = true;
    const bool read = read_mapped([&] {
      if (targets != nullptr) {
        chunk.next_token = next_tokens[at.index];
        if (!lengths.empty()) chunk.valid_len = lengths[at.index];
        in_range = chunk.valid_len >= 1 && chunk.valid_len <= chunk_tokens();
      }
      if (in_range) copy(chunk, tokens, targets);
    });
    if (!read) fail(id, kUnreadable);
    if (!in_range) fail(id, "its valid length is out of range");
    tokens += row_bytes;
    if (targets != nullptr) targets += row_bytes;
  }
}

}  // namespace fluxcore::data
