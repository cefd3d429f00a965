#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fluxcore::data {

// How a segment visits its ranks.
enum class Walk : uint8_t { kForward, kShuffled };

// A run of positions that draws, without replacement, from the ranks [first, first + size).
struct Segment {
  uint64_t first = 0;
  uint64_t size = 0;
  Walk walk = Walk::kForward;
};

// An order of chunks as a pure function (seed, epoch, position) -> chunk. Immutable and thread-safe.
//
// The ranking says which chunk stands at each rank; one epoch is the segments one after another. Shuffled segments are
// keyed by seed, epoch and the segment's number, so that every epoch shuffles anew and no segment repeats another.
class Order {
 public:
  // An empty `ranking` stands for the identity over `ranks` chunks. Throws std::invalid_argument when `ranking` is
  // neither empty nor `ranks` long, or when a segment is empty or reaches past `ranks`.
  Order(std::vector<uint64_t> ranking, uint64_t ranks, std::vector<Segment> segments, uint64_t seed);

  [[nodiscard]] uint64_t epoch_size() const noexcept { return starts_.back(); }  // positions in an epoch

  // Fills `chunks` with the chunks at positions [position, position + chunks.size()); positions run on from epoch to
  // epoch. Throws std::out_of_range when an epoch has no position.
  void chunks_at(uint64_t position, std::span<uint64_t> chunks) const;

 private:
  void segment_chunks(size_t segment, uint64_t epoch, uint64_t offset, std::span<uint64_t> chunks) const;

  std::vector<uint64_t> ranking_;
  std::vector<Segment> segments_;
  std::vector<uint64_t> starts_;  // first position of each segment, then the epoch's size
  uint64_t seed_;
};

}  // namespace fluxcore::data
