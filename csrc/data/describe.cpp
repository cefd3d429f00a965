#include "data/describe.hpp"

#include <cstddef>
#include <cstring>

#include "data/errors.hpp"
#include "data/map_guard.hpp"

namespace fluxcore::data {

namespace {

template <class T>
int64_t item(std::span<const std::byte> column, uint64_t index) {
  T value = 0;
  std::memcpy(&value, column.data() + (index * sizeof(T)), sizeof(T));
  return static_cast<int64_t>(value);
}

}  // namespace

void describe_chunks(const ShardSet& shards, std::span<const uint64_t> chunk_ids, std::span<int64_t> out) {
  const size_t count = chunk_ids.size();
  for (size_t row = 0; row < count; ++row) {
    const ChunkPlace at = shards.place(chunk_ids[row]);
    const std::span<const std::byte> sources = at.shard->column("source");
    const std::span<const std::byte> documents = at.shard->column("doc_id");
    const std::span<const std::byte> offsets = at.shard->column("doc_offset");
    const std::span<const uint32_t> lengths = at.shard->valid_lengths();
    const bool read = read_mapped([&] {
      out[row] = item<uint16_t>(sources, at.index);
      out[count + row] = item<uint64_t>(documents, at.index);
      out[2 * count + row] = item<uint32_t>(offsets, at.index);
      out[3 * count + row] = lengths.empty() ? shards.chunk_tokens() : lengths[at.index];
    });
    if (!read) throw CorruptShard(at.shard->path(), kUnreadable, chunk_ids[row], CorruptShard::kUnknown);
  }
}

}  // namespace fluxcore::data
