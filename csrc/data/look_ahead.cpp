#include "data/look_ahead.hpp"

#include <algorithm>
#include <exception>
#include <vector>

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

}  // namespace

void LookAhead::announce(std::span<const uint64_t> chunk_ids) noexcept {
  if (chunk_ids.size() < 2) return;
  try {
    announce_window(chunk_ids);
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
    // A shard that cannot be mapped now: the read of its chunk says so, at the batch that it belongs to.
  }
}

bool LookAhead::is_warm(std::span<const uint64_t> chunk_ids) const {
  const size_t count = std::min(kLookedAt, chunk_ids.size());
  for (size_t i = 0; i < count; ++i) {
    const ChunkPlace at = shards_->place(chunk_ids[i * chunk_ids.size() / count]);
    if (!at.shard->is_resident(at.index).value_or(false)) return false;
  }
  return true;
}

void LookAhead::announce_window(std::span<const uint64_t> chunk_ids) {
  if (is_warm(chunk_ids)) return;
  // Behind a sequential reader the kernel reads on by itself, in larger steps than ours; MADV_SEQUENTIAL makes it
  // slower.
  const bool sequential = is_sequential(chunk_ids);
  std::vector<uint64_t> ids(chunk_ids.begin(), chunk_ids.end());
  std::ranges::sort(ids);
  for (size_t i = 0; i < ids.size();) {
    const ChunkPlace at = shards_->place(ids[i]);
    at.shard->expect(sequential ? Access::kNormal : Access::kRandom);
    // One hint for chunks that lie side by side in a shard.
    uint64_t count = 1;
    const uint64_t left = at.shard->superblock().chunk_count - at.index;
    for (++i; i < ids.size() && ids[i] <= ids[i - 1] + 1 && count < left; ++i) count += ids[i] - ids[i - 1];
    if (!sequential) at.shard->will_need(at.index, count);
  }
}

}  // namespace fluxcore::data
