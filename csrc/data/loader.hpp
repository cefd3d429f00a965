#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/memory.hpp"
#include "data/look_ahead.hpp"
#include "data/order.hpp"
#include "data/ordered_executor.hpp"
#include "data/schedule.hpp"
#include "data/shard_set.hpp"

namespace fluxcore::data {

// Where a batch goes: its chunk ids, and its rows.
struct BatchOut {
  std::span<uint64_t> chunk_ids;
  GatherOut out;
};

// Fills batches ahead of their use, on threads of its own, and hands them over in order.
//
// The caller brings the memory: a batch is written straight into it and belongs to the caller again once `next()` has
// returned for it. It must stay valid until then, or until the loader is destroyed.
class Loader {
 public:
  // `drop_behind`: the pages of a batch are given back to the kernel once it is copied, where the set does not fit in
  // `memory` bytes.
  Loader(std::shared_ptr<const ShardSet> shards, std::shared_ptr<const Order> order, bool verify, size_t threads,
         bool drop_behind = false, uint64_t memory = memory_for_files() / 2);

  // Says where a batch goes, when it is begun and by whom: 0 is `next()`, the threads count from 1. A processor writes
  // memory that it wrote last in half the time that it takes for what lies in another's cache.
  using Where = std::function<BatchOut(size_t runner)>;

  // Asks for the rows from `position` of the order on. `ahead`: rows that will be asked for later, announced to the
  // kernel as one window. `where` is called by any thread; it must not throw.
  void submit(uint64_t position, Where where, std::vector<Rows> ahead = {});
  void submit(uint64_t position, std::span<uint64_t> chunk_ids, const GatherOut& out, std::vector<Rows> ahead = {});

  // Waits for the oldest batch asked for. Throws what reading it threw: CorruptShard, std::out_of_range.
  void next() { executor_.next(); }

  [[nodiscard]] size_t pending() const { return executor_.pending(); }  // batches asked for and not handed over

 private:
  [[nodiscard]] std::vector<uint64_t> chunks_of(std::span<const Rows> batches) const;

  std::shared_ptr<const ShardSet> shards_;
  std::shared_ptr<const Order> order_;
  bool verify_;
  bool drop_behind_;
  LookAhead look_ahead_;
  OrderedExecutor executor_;  // last: its threads use the members above
};

}  // namespace fluxcore::data
