#pragma once

#include <cstdint>
#include <span>

#include "data/shard_set.hpp"

namespace fluxcore::data {

inline constexpr size_t kDescribed = 4;  // source, document id, offset in the document, valid length

// Fills `out` [kDescribed, chunk_ids.size()] with what the columns say of each chunk.
// Throws std::out_of_range, CorruptShard.
void describe_chunks(const ShardSet& shards, std::span<const uint64_t> chunk_ids, std::span<int64_t> out);

}  // namespace fluxcore::data
