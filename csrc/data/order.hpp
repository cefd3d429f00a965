#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fluxcore::data {

// Which chunk stands at each rank.
class Ranking {
 public:
  // An empty `chunks` stands for the identity over `ranks` chunks. Throws std::invalid_argument when it is neither
  // empty nor `ranks` long.
  Ranking(std::vector<uint64_t> chunks, uint64_t ranks);

  [[nodiscard]] uint64_t size() const noexcept { return ranks_; }
  void ranks_to_chunks(std::span<uint64_t> ranks) const;  // in place; each within [0, size)

 private:
  std::vector<uint64_t> chunks_;
  uint64_t ranks_;
};

// An order of chunks as a pure function (seed, position) -> chunk. Immutable and thread-safe.
class Order {
 public:
  Order() = default;
  virtual ~Order() = default;
  Order(const Order&) = delete;
  Order& operator=(const Order&) = delete;
  Order(Order&&) = delete;
  Order& operator=(Order&&) = delete;

  // Positions in an epoch: the chunks that a pass over all of them visits.
  [[nodiscard]] virtual uint64_t epoch_size() const noexcept = 0;

  // Fills `chunks` with the chunks at positions [position, position + chunks.size()); positions run on from epoch to
  // epoch. Throws std::out_of_range when an epoch has no position.
  virtual void chunks_at(uint64_t position, std::span<uint64_t> chunks) const = 0;

  // The chunks that are missing, just before `position`, for the pass in progress to have visited every one. Empty
  // where a pass begins.
  [[nodiscard]] virtual std::vector<uint64_t> rest_of_pass(uint64_t position) const = 0;
};

// How a segment visits its ranks; `Segment::width` is the parameter of the last two.
enum class Walk : uint8_t {
  kForward,
  kShuffled,
  kJittered,  // less than `width` positions from where kForward would be
  kStrided,   // in `width` passes, each of which takes every `width`-th rank
};

// A run of positions that draws, without replacement, from the ranks [first, first + size).
struct Segment {
  uint64_t first = 0;
  uint64_t size = 0;
  Walk walk = Walk::kForward;
  uint64_t width = 1;
};

// An order whose epochs all consist of the same segments, one after another.
//
// What is random in a segment is keyed by seed, epoch and the segment's number, so that every epoch is arranged anew
// and no segment repeats another.
class RankedOrder final : public Order {
 public:
  // Throws std::invalid_argument when a segment is empty, reaches past the ranks, or has a width that is zero or, of
  // strides, more than its size.
  RankedOrder(Ranking ranking, std::vector<Segment> segments, uint64_t seed);

  [[nodiscard]] uint64_t epoch_size() const noexcept override { return starts_.back(); }
  void chunks_at(uint64_t position, std::span<uint64_t> chunks) const override;
  [[nodiscard]] std::vector<uint64_t> rest_of_pass(uint64_t position) const override;

 private:
  void segment_ranks(size_t segment, uint64_t epoch, uint64_t offset, std::span<uint64_t> ranks) const;

  Ranking ranking_;
  std::vector<Segment> segments_;
  std::vector<uint64_t> starts_;  // first position of each segment, then the epoch's size
  uint64_t seed_;
};

}  // namespace fluxcore::data
