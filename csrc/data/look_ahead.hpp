#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "data/shard_set.hpp"

namespace fluxcore::data {

// Tells the kernel which chunks are read soon, so that a cold disk works on many of them at once, and not to read what
// lies around them. In sequential windows the kernel's own read-ahead is left to it.
//
// A hint costs about a microsecond a chunk, as much as copying one. So one chunk of each window is looked at, and when
// `kWarm` windows in a row were found in memory no more is asked for, until a window is found that is not.
// Safe to use from several threads.
class LookAhead {
 public:
  explicit LookAhead(std::shared_ptr<const ShardSet> shards) : shards_(std::move(shards)) {}

  // `chunk_ids`: a window of an order, as it comes there. What is wrong with a shard is left to the read that follows.
  void announce(std::span<const uint64_t> chunk_ids) noexcept;

 private:
  static constexpr uint32_t kWarm = 64;

  void announce_window(std::span<const uint64_t> chunk_ids);
  bool is_warm(uint64_t chunk_id);

  std::shared_ptr<const ShardSet> shards_;
  std::atomic<uint32_t> warm_windows_ = 0;  // in a row
};

}  // namespace fluxcore::data
