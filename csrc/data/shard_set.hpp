#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/layout.hpp"
#include "data/map_pool.hpp"
#include "data/out_type.hpp"
#include "data/shard.hpp"

namespace fluxcore::data {

struct GatherOut {
  OutType type = OutType::i64;
  void* tokens = nullptr;   // [n, chunk_tokens]
  void* targets = nullptr;  // [n, chunk_tokens] or nullptr
};

// What the manifest says of a shard.
struct ShardEntry {
  std::string name;
  std::uint64_t bytes = 0;
  std::uint64_t chunks = 0;
  Bytes16 root = {};
};

// What the manifest says of the whole set.
struct SetSpec {
  Bytes16 uuid = {};
  TokenType token_type = TokenType::u16;
  std::uint32_t chunk_tokens = 0;
  std::uint64_t vocab_size = 0;
  Bytes16 tokenizer = {};
  std::string sort_column;  // empty: not sorted
  bool sort_descending = false;
};

// Where a chunk of the set lies. Bytes that were got by it are there as long as it lives.
struct ChunkPlace {
  const Shard* shard = nullptr;
  std::uint64_t index = 0;  // within the shard
  MapHold held;
};

// Room for the maps of a set's shards in a pool, all of which are then kept for good; or none.
class MapRoom {
 public:
  MapRoom(std::shared_ptr<MapPool> pool, std::size_t count)
      : pool_(std::move(pool)), reserved_(pool_->reserve(count) ? count : 0) {}
  ~MapRoom() { pool_->give_back(reserved_); }
  MapRoom(MapRoom&&) = delete;
  MapRoom& operator=(MapRoom&&) = delete;
  MapRoom(const MapRoom&) = delete;
  MapRoom& operator=(const MapRoom&) = delete;

  [[nodiscard]] MapPool* pool() const noexcept { return reserved_ > 0 ? nullptr : pool_.get(); }  // as for a Shard

 private:
  std::shared_ptr<MapPool> pool_;
  std::size_t reserved_;
};

// The shards of a data set as one row of chunks. Immutable and thread-safe; hold it by shared_ptr.
class ShardSet {
 public:
  // Opens every listed shard and checks it against its entry; maps none of them. `pool`: where shards are mapped.
  // Throws FileError, CorruptShard, UnsupportedFormat.
  ShardSet(const std::filesystem::path& folder, SetSpec spec, const std::vector<ShardEntry>& entries,
           std::shared_ptr<MapPool> pool = MapPool::of_process());

  [[nodiscard]] std::uint64_t chunk_count() const noexcept { return bases_.back(); }
  [[nodiscard]] std::uint32_t chunk_tokens() const noexcept { return spec_.chunk_tokens; }
  [[nodiscard]] TokenType token_type() const noexcept { return spec_.token_type; }
  [[nodiscard]] std::uint64_t vocab_size() const noexcept { return spec_.vocab_size; }
  [[nodiscard]] std::size_t shard_count() const noexcept { return shards_.size(); }
  [[nodiscard]] const Shard& shard(std::size_t number) const { return *shards_.at(number); }  // hold it to read bytes
  [[nodiscard]] std::uint64_t base(std::size_t number) const { return bases_.at(number); }    // id of its first chunk

  // Throws std::out_of_range.
  [[nodiscard]] ChunkPlace place(std::uint64_t chunk_id) const;

  // Copies whole chunks, and beside them the targets: the tokens moved left by one, then the token that follows the
  // chunk. Where there is no target (padding, the end of a document, a cleared mask bit) the signed types get -100, the
  // unsigned ones 0. With `verify` the CRC of each chunk is checked; what was copied
  // until an exception is of any value.
  // Throws std::out_of_range, std::invalid_argument for a type that cannot hold every token, CorruptShard.
  void gather(std::span<const std::uint64_t> chunk_ids, const GatherOut& out, bool verify) const;

  // Throws CorruptShard that names the shard, the chunk and its document.
  void check_payload(std::uint64_t chunk_id) const;
  // Everything that can be checked of one shard without the others: sections, padding, CRC of every chunk, tokens
  // below the vocabulary, lengths in range, padding zero. Throws CorruptShard.
  void verify_shard(std::size_t number) const;

 private:
  void gather_held(std::span<const std::uint64_t> chunk_ids, const GatherOut& out, bool verify) const;
  [[noreturn]] void fail(std::uint64_t chunk_id, const std::string& why) const;

  SetSpec spec_;
  MapRoom room_;
  std::vector<std::unique_ptr<const Shard>> shards_;
  std::vector<std::uint64_t> bases_ = {0};  // one more than shards_
};

}  // namespace fluxcore::data
