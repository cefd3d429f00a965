#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data/shard_set.hpp"

namespace fluxcore::data {

// Calls `visit(place of the first, count)` for every run of chunks that lie side by side in a shard. `chunk_ids`: in
// any order; one that comes twice counts once. Throws std::out_of_range.
template <class Visit>
void for_each_run(const ShardSet& shards, std::span<const std::uint64_t> chunk_ids, Visit&& visit) {
  std::vector<std::uint64_t> ids(chunk_ids.begin(), chunk_ids.end());
  std::ranges::sort(ids);
  for (std::size_t i = 0; i < ids.size();) {
    const ChunkPlace at = shards.place(ids[i]);
    std::uint64_t count = 1;
    const std::uint64_t left = at.shard->superblock().chunk_count - at.index;
    for (++i; i < ids.size() && ids[i] <= ids[i - 1] + 1; ++i) {
      if (ids[i] == ids[i - 1]) continue;
      if (count == left) break;
      ++count;
    }
    visit(at, count);
  }
}

}  // namespace fluxcore::data
