#include "data/describe.hpp"

#include <cstddef>
#include <cstring>
#include <string_view>

namespace fluxcore::data {

namespace {

template <class T>
int64_t item(const Shard& shard, std::string_view column, uint64_t index) {
  T value = 0;
  std::memcpy(&value, shard.column(column).subspan(index * sizeof(T), sizeof(T)).data(), sizeof(T));
  return static_cast<int64_t>(value);
}

}  // namespace

void describe_chunks(const ShardSet& shards, std::span<const uint64_t> chunk_ids, std::span<int64_t> out) {
  const size_t count = chunk_ids.size();
  for (size_t row = 0; row < count; ++row) {
    const ChunkPlace at = shards.place(chunk_ids[row]);
    out[row] = item<uint16_t>(*at.shard, "source", at.index);
    out[count + row] = item<uint64_t>(*at.shard, "doc_id", at.index);
    out[2 * count + row] = item<uint32_t>(*at.shard, "doc_offset", at.index);
    const std::span<const uint32_t> lengths = at.shard->valid_lengths();
    out[3 * count + row] = lengths.empty() ? shards.chunk_tokens() : lengths[at.index];
  }
}

}  // namespace fluxcore::data
