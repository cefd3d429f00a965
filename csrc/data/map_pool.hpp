#pragma once

#include <atomic>
#include <cstddef>
#include <list>
#include <memory>
#include <utility>

#include "data/file.hpp"

namespace fluxcore::data {

class PooledMap;

// How many files may be mapped. The kernel allows a process so many maps (vm.max_map_count, 65530 by default), and past
// them mmap fails.
//
// A set whose files all fit beside those of the other open sets keeps its maps for good and pays nothing for the limit.
// The files of a larger one are mapped when they are read; of those that nobody holds the ones let go longest ago are
// unmapped when there are more than half the limit, so that both kinds together stay below 1.5 times the limit.
//
// Safe to use from several threads, and across a fork: the lock, which all pools share, is free in the child.
class MapPool {
 public:
  explicit MapPool(std::size_t limit);
  static const std::shared_ptr<MapPool>& of_process();  // its limit: half of what the kernel allows

  // Room for `count` files that are mapped for good, or none of it.
  [[nodiscard]] bool reserve(std::size_t count);
  void give_back(std::size_t count) noexcept;

  [[nodiscard]] std::size_t mapped() const;  // files that are mapped now, without those for good

 private:
  friend class PooledMap;

  // These are called with the lock held.
  void leave(PooledMap& map) noexcept;
  [[nodiscard]] std::unique_ptr<const MappedFile> take_surplus() noexcept;

  std::size_t limit_;
  std::size_t reserved_ = 0;
  std::size_t mapped_ = 0;
  std::list<PooledMap*> idle_;  // mapped and held by nobody, the one let go longest ago first
};

// While it lives the map that it is of is not let go. Holds nothing where maps are kept for good.
class MapHold {
 public:
  MapHold() = default;
  explicit MapHold(PooledMap& map) noexcept;
  ~MapHold();
  MapHold(MapHold&& other) noexcept : map_(std::exchange(other.map_, nullptr)) {}
  MapHold& operator=(MapHold&& other) noexcept;
  MapHold(const MapHold&) = delete;
  MapHold& operator=(const MapHold&) = delete;

 private:
  PooledMap* map_ = nullptr;
};

// The place of one file's map, which appears when it is first needed.
class PooledMap {
 public:
  explicit PooledMap(MapPool* pool);  // nullptr: the map is kept for good
  ~PooledMap();
  PooledMap(PooledMap&&) = delete;
  PooledMap& operator=(PooledMap&&) = delete;
  PooledMap(const PooledMap&) = delete;
  PooledMap& operator=(const PooledMap&) = delete;

  // nullptr: not mapped. What is read through it must be held meanwhile.
  [[nodiscard]] const MappedFile* get() const noexcept { return mapped_.load(); }
  // The map from now on: `fresh`, or that of another thread which was faster.
  const MappedFile& keep(std::unique_ptr<const MappedFile> fresh);
  [[nodiscard]] bool is_lasting() const noexcept { return pool_ == nullptr; }

 private:
  friend class MapPool;
  friend class MapHold;

  void hold() noexcept;
  void release() noexcept;

  MapPool* pool_;
  std::atomic<const MappedFile*> mapped_ = nullptr;
  std::size_t holds_ = 0;       // under the lock, as is the list
  std::list<PooledMap*> self_;  // this, while it is not in the pool's list: moving between lists allocates nothing
  std::list<PooledMap*>::iterator node_;
};

}  // namespace fluxcore::data
