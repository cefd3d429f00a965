#include "data/look_ahead.hpp"

#include <algorithm>
#include <exception>
#include <set>
#include <utility>

#include "data/chunk_runs.hpp"

namespace fluxcore::data {
namespace {

// Whether nearly all chunks follow the one before them.
bool is_sequential(std::span<const uint64_t> chunk_ids) {
  size_t following = 0;
  for (size_t i = 1; i < chunk_ids.size(); ++i) {
    if (chunk_ids[i] == chunk_ids[i - 1] + 1) ++following;
  }
  return 8 * following >= 7 * (chunk_ids.size() - 1);
}

std::uint64_t bytes_of(const ShardSet& shards) {
  std::uint64_t bytes = 0;
  for (size_t s = 0; s < shards.shard_count(); ++s) bytes += shards.shard(s).size();
  return bytes;
}

}  // namespace

LookAhead::LookAhead(std::shared_ptr<const ShardSet> shards, std::uint64_t memory)
    : shards_(std::move(shards)), fits_(bytes_of(*shards_) <= memory) {}

void LookAhead::expect(std::span<const uint64_t> chunk_ids) noexcept {
  if (fits_ || chunk_ids.size() < 2 || reads_.load(std::memory_order_relaxed) != Reads::kUnknown) return;
  set_reads(is_sequential(chunk_ids) ? Reads::kInOrder : Reads::kScattered);
}

void LookAhead::announce(std::span<const uint64_t> chunk_ids) noexcept {
  if (chunk_ids.size() < 2) return;
  try {
    announce_window(chunk_ids);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
    // A shard that cannot be mapped now: the read of its chunk says so, at the batch that it belongs to.
  }
}

void LookAhead::drop_behind(std::span<const uint64_t> chunk_ids) const {
  if (fits_) return;
  for_each_run(*shards_, chunk_ids, [](const ChunkPlace& at, std::uint64_t count) { at.shard->drop(at.index, count); });
}

bool LookAhead::is_warm(std::span<const uint64_t> chunk_ids) const {
  const size_t count = std::min(kLookedAt, chunk_ids.size());
  for (size_t i = 0; i < count; ++i) {
    const ChunkPlace at = shards_->place(chunk_ids[i * chunk_ids.size() / count]);
    if (!at.shard->is_resident(at.index).value_or(false)) return false;
  }
  return true;
}

void LookAhead::set_reads(Reads reads) {
  if (reads_.load(std::memory_order_relaxed) == reads) return;
  const std::lock_guard lock(telling_);
  if (reads_.exchange(reads, std::memory_order_relaxed) == reads) return;
  const Access access = reads == Reads::kScattered ? Access::kRandom : Access::kNormal;
  for (size_t s = 0; s < shards_->shard_count(); ++s) shards_->shard(s).expect(access);
}

void LookAhead::announce_window(std::span<const uint64_t> chunk_ids) {
  if (is_warm(chunk_ids)) return;
  // Behind a sequential reader the kernel reads on by itself, in larger steps than ours; MADV_SEQUENTIAL makes it
  // slower.
  const bool sequential = is_sequential(chunk_ids);
  set_reads(sequential ? Reads::kInOrder : Reads::kScattered);
  if (sequential) return;
  if (fits_) {
    ask_for_blocks(chunk_ids);
  } else {
    ask_for_chunks(chunk_ids);
  }
}

void LookAhead::ask_for_chunks(std::span<const uint64_t> chunk_ids) const {
  for_each_run(*shards_, chunk_ids,
               [](const ChunkPlace& at, std::uint64_t count) { at.shard->will_need(at.index, count); });
}

void LookAhead::ask_for_blocks(std::span<const uint64_t> chunk_ids) const {
  const std::uint64_t chunk_bytes = size_of(shards_->token_type()) * shards_->chunk_tokens();
  const std::uint64_t chunks_of_block = std::max<std::uint64_t>(kBlockBytes / chunk_bytes, 1);
  std::set<std::pair<const Shard*, std::uint64_t>> asked;
  for (const std::uint64_t id : chunk_ids) {
    const ChunkPlace at = shards_->place(id);
    const std::uint64_t block = at.index / chunks_of_block;
    if (at.shard->is_resident(at.index).value_or(false) || !asked.insert({at.shard, block}).second) continue;
    const std::uint64_t first = block * chunks_of_block;
    at.shard->will_need(first, std::min(chunks_of_block, at.shard->superblock().chunk_count - first));
  }
}

}  // namespace fluxcore::data
