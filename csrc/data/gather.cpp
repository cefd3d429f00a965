#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "data/chunk_kernels.hpp"
#include "data/crc32c.hpp"
#include "data/errors.hpp"
#include "data/map_guard.hpp"
#include "data/shard_set.hpp"

namespace fluxcore::data {
namespace {

// A chunk that will be copied. The pointers are into mapped files, which are only read under a guard.
struct Source {
  std::span<const std::byte> tokens;
  std::span<const std::byte> mask;
  const std::uint32_t* crc = nullptr;
  const std::uint32_t* next_token = nullptr;
  const std::uint32_t* valid_len = nullptr;  // nullptr: full
  MapHold held;
};

enum class Fault : std::uint8_t { kNone, kChanged, kBadLength };

// Puts what is no token of the chunk where it belongs: its last target, and those that do not count.
template <class Out>
void finish_targets(const Source& chunk, std::size_t size, std::size_t valid_len, Out* targets) {
  constexpr Out kNoTarget = std::is_signed_v<Out> ? static_cast<Out>(-100) : Out{0};
  const std::size_t last = valid_len - 1;
  const std::uint32_t next = *chunk.next_token;
  targets[last] = next == kNoToken ? kNoTarget : static_cast<Out>(next);
  std::fill(targets + valid_len, targets + size, kNoTarget);
  for (std::size_t t = 0; t < size && !chunk.mask.empty(); ++t) {
    const bool counts = ((static_cast<unsigned>(chunk.mask[t / 8]) >> (t % 8)) & 1U) != 0;
    if (!counts) targets[t] = kNoTarget;
  }
}

using FinishTargets = void (*)(const Source& chunk, std::size_t size, std::size_t valid_len, void* targets);

template <class Out>
void finish_erased(const Source& chunk, std::size_t size, std::size_t valid_len, void* targets) {
  finish_targets(chunk, size, valid_len, static_cast<Out*>(targets));
}

FinishTargets finisher(OutType out) {
  switch (out) {
    case OutType::u8:
      return finish_erased<std::uint8_t>;
    case OutType::u16:
      return finish_erased<std::uint16_t>;
    case OutType::u32:
      return finish_erased<std::uint32_t>;
    case OutType::i32:
      return finish_erased<std::int32_t>;
    case OutType::i64:
      break;
  }
  return finish_erased<std::int64_t>;
}

// Copies chunks one after another into the rows of a batch.
class Copier {
 public:
  Copier(TokenType token, const GatherOut& out, std::size_t chunk_tokens)
      : out_(out),
        kernels_(chunk_kernels(token, out.type)),
        finish_(finisher(out.type)),
        chunk_tokens_(chunk_tokens),
        row_bytes_(chunk_tokens * size_of(out.type)) {}

  // `upcoming`: the chunk that is read next. To be called under a guard; throws nothing and owns nothing.
  [[nodiscard]] Fault copy(const Source& chunk, std::size_t row, const Source& upcoming, bool verify) const {
    std::size_t valid_len = chunk_tokens_;
    const bool targets = out_.targets != nullptr;
    if (targets && chunk.valid_len != nullptr) {
      valid_len = *chunk.valid_len;
      if (valid_len < 1 || valid_len > chunk_tokens_) return Fault::kBadLength;
    }
    const ChunkCopy whole = {.in = chunk.tokens.data(),
                             .size = chunk.tokens.size(),
                             .tokens = row_of(out_.tokens, row),
                             .targets = targets ? row_of(out_.targets, row) : nullptr,
                             .upcoming = upcoming.tokens.data()};
    if (!verify) {
      kernels_.copy(whole);
    } else if (crc32c(chunk.mask, kernels_.copy_and_check(whole)) != *chunk.crc) {
      return Fault::kChanged;
    }
    if (targets) finish_(chunk, chunk_tokens_, valid_len, whole.targets);
    return Fault::kNone;
  }

 private:
  [[nodiscard]] void* row_of(void* rows, std::size_t row) const {
    return static_cast<std::byte*>(rows) + row * row_bytes_;
  }

  GatherOut out_;
  ChunkKernels kernels_;
  FinishTargets finish_;
  std::size_t chunk_tokens_;
  std::size_t row_bytes_;
};

Source source_of(ChunkPlace at, bool verify, bool targets) {
  Source chunk;
  chunk.tokens = at.shard->tokens(at.index);
  chunk.mask = at.shard->mask(at.index);
  if (verify) chunk.crc = &at.shard->chunk_crcs()[at.index];
  if (targets) {
    chunk.next_token = &at.shard->next_tokens()[at.index];
    const std::span<const std::uint32_t> lengths = at.shard->valid_lengths();
    if (!lengths.empty()) chunk.valid_len = &lengths[at.index];
  }
  // They lie far apart; asked for together they are there when their turn comes.
  for (const std::uint32_t* fact : {chunk.crc, chunk.next_token, chunk.valid_len}) __builtin_prefetch(fact);
  chunk.held = std::move(at.held);
  return chunk;
}

}  // namespace

void ShardSet::gather(std::span<const std::uint64_t> chunk_ids, const GatherOut& out, bool verify) const {
  if (vocab_size() > ids_of(out.type)) {
    throw std::invalid_argument("`out` must hold every token of a vocabulary of " + std::to_string(vocab_size()) +
                                ", got " + std::string(name_of(out.type)) + "\n\nUse out=\"int64\".");
  }
  // The files of what is in work are held: of a set that cannot be mapped whole, not too many at once.
  constexpr std::size_t kAtOnce = 4096;
  for (std::size_t first = 0; first < chunk_ids.size(); first += kAtOnce) {
    const std::size_t bytes = first * chunk_tokens() * size_of(out.type);
    GatherOut rest = out;
    rest.tokens = static_cast<std::byte*>(out.tokens) + bytes;
    if (out.targets != nullptr) rest.targets = static_cast<std::byte*>(out.targets) + bytes;
    gather_held(chunk_ids.subspan(first, std::min(kAtOnce, chunk_ids.size() - first)), rest, verify);
  }
}

void ShardSet::gather_held(std::span<const std::uint64_t> chunk_ids, const GatherOut& out, bool verify) const {
  std::vector<Source> chunks;
  chunks.reserve(chunk_ids.size());
  for (const std::uint64_t id : chunk_ids) chunks.push_back(source_of(place(id), verify, out.targets != nullptr));

  const Copier copier(token_type(), out, chunk_tokens());
  volatile std::size_t reached = 0;  // volatile: in memory when the guard is left half-way
  Fault fault = Fault::kNone;
  const bool read = read_mapped([&] {
    for (std::size_t row = 0; row < chunks.size() && fault == Fault::kNone; ++row) {
      reached = row;
      const Source& upcoming = chunks[std::min(row + 1, chunks.size() - 1)];
      fault = copier.copy(chunks[row], row, upcoming, verify);
    }
  });
  if (!read) fail(chunk_ids[reached], kUnreadable);
  if (fault == Fault::kChanged) fail(chunk_ids[reached], kChanged);
  if (fault == Fault::kBadLength) fail(chunk_ids[reached], "its valid length is out of range");
}

}  // namespace fluxcore::data
