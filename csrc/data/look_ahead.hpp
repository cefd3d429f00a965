#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "data/shard_set.hpp"

namespace fluxcore::data {

// Tells the kernel which chunks are read soon, so that a cold disk works on many of them at once, and not to read what
// lies around them. In sequential windows the kernel's own read-ahead is left to it.
//
// A hint costs about a microsecond a chunk, as much as copying one. So a few chunks of each window are looked at, and
// where all of these are in memory no more is asked for: of a set that is there in part, at most one chunk in 23 then
// goes without a hint, which is read when it is needed.
// Safe to use from several threads.
class LookAhead {
 public:
  explicit LookAhead(std::shared_ptr<const ShardSet> shards) : shards_(std::move(shards)) {}

  // `chunk_ids`: a window of an order, as it comes there. What is wrong with a shard is left to the read that follows.
  void announce(std::span<const uint64_t> chunk_ids) noexcept;

 private:
  static constexpr size_t kLookedAt = 8;

  void announce_window(std::span<const uint64_t> chunk_ids);
  [[nodiscard]] bool is_warm(std::span<const uint64_t> chunk_ids) const;

  std::shared_ptr<const ShardSet> shards_;
};

}  // namespace fluxcore::data
