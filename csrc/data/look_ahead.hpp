#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "data/shard_set.hpp"

namespace fluxcore::data {

// Tells the kernel which chunks are read soon, so that a cold disk works on many of them at once, and which were read
// and are not needed again. In sequential windows the kernel's own read-ahead is left to it.
//
// Around scattered chunks it would read megabytes. Of a set that does not fit in memory the chunks alone are asked for.
// One that fits is going to be read whole, and a disk gives a block in the time that a chunk takes, so that the blocks
// are asked for in which the chunks lie, the soonest first.
//
// A hint costs about a microsecond a chunk, as much as copying one. So a few chunks of each window are looked at, and
// where all of these are in memory no more is asked for: of a set that is there in part, at most one chunk in 23 then
// goes without a hint, which is read when it is needed.
// Safe to use from several threads.
class LookAhead {
 public:
  static constexpr std::uint64_t kBlockBytes = 1024 << 10;

  // `memory`: bytes that the set's pages may take; what does not fit is read by the chunk.
  LookAhead(std::shared_ptr<const ShardSet> shards, std::uint64_t memory);

  // How chunks are read until a window has been announced, as far as these tell. Of a set that fits in memory the
  // kernel may well read more than it was asked for.
  void expect(std::span<const uint64_t> chunk_ids) noexcept;
  // `chunk_ids`: a window of an order, as it comes there. What is wrong with a shard is left to the read that follows.
  void announce(std::span<const uint64_t> chunk_ids) noexcept;
  // The pages of chunks that were read are given back, so that what else is in memory stays there; nothing of a set
  // that fits. Pages that another process has mapped stay.
  void drop_behind(std::span<const uint64_t> chunk_ids) const;

 private:
  enum class Reads : std::uint8_t { kUnknown, kInOrder, kScattered };
  static constexpr size_t kLookedAt = 8;

  void announce_window(std::span<const uint64_t> chunk_ids);
  void ask_for_chunks(std::span<const uint64_t> chunk_ids) const;
  void ask_for_blocks(std::span<const uint64_t> chunk_ids) const;
  [[nodiscard]] bool is_warm(std::span<const uint64_t> chunk_ids) const;
  void set_reads(Reads reads);

  std::shared_ptr<const ShardSet> shards_;
  bool fits_ = false;
  std::atomic<Reads> reads_ = Reads::kUnknown;
  std::mutex telling_;  // all shards of one way of reading before any of the next
};

}  // namespace fluxcore::data
