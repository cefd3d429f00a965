#include "data/order.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "data/feistel.hpp"
#include "data/order_walks.hpp"

namespace fluxcore::data {

namespace {

void check_segment(const Segment& segment, uint64_t ranks) {
  if (segment.size == 0 || segment.first >= ranks || segment.size > ranks - segment.first) {
    throw std::invalid_argument("a segment must be a part of the ranks [0, " + std::to_string(ranks) + "), got " +
                                std::to_string(segment.size) + " ranks from " + std::to_string(segment.first));
  }
  const uint64_t most = segment.walk == Walk::kStrided ? segment.size : UINT64_MAX;
  if (segment.width == 0 || segment.width > most) {
    throw std::invalid_argument("the width of a segment must be within [1, " + std::to_string(most) + "], got " +
                                std::to_string(segment.width));
  }
}

// Calls `rank` for offset, offset + 1, ...
template <class Rank>
void fill(std::span<uint64_t> ranks, uint64_t first, uint64_t offset, Rank&& rank) {
  for (uint64_t& each : ranks) {
    each = first + rank(offset++);
  }
}

}  // namespace

Ranking::Ranking(std::vector<uint64_t> chunks, uint64_t ranks) : chunks_(std::move(chunks)), ranks_(ranks) {
  if (!chunks_.empty() && chunks_.size() != ranks) {
    throw std::invalid_argument("`ranking` must be empty or have `ranks` = " + std::to_string(ranks) +
                                " entries, got " + std::to_string(chunks_.size()));
  }
}

void Ranking::ranks_to_chunks(std::span<uint64_t> ranks) const {
  if (chunks_.empty()) {
    return;
  }
  for (uint64_t& rank : ranks) {
    rank = chunks_[rank];
  }
}

RankedOrder::RankedOrder(Ranking ranking, std::vector<Segment> segments, uint64_t seed)
    : ranking_(std::move(ranking)), segments_(std::move(segments)), seed_(seed) {
  starts_.reserve(segments_.size() + 1);
  starts_.push_back(0);
  for (const Segment& segment : segments_) {
    check_segment(segment, ranking_.size());
    starts_.push_back(starts_.back() + segment.size);
  }
}

void RankedOrder::chunks_at(uint64_t position, std::span<uint64_t> chunks) const {
  if (chunks.empty()) {
    return;
  }
  if (epoch_size() == 0) {
    throw std::out_of_range("an order over no chunks has no position " + std::to_string(position));
  }
  std::span<uint64_t> ranks = chunks;
  while (!ranks.empty()) {
    const uint64_t epoch = position / epoch_size();
    const uint64_t in_epoch = position % epoch_size();
    const auto after = std::ranges::upper_bound(starts_, in_epoch);
    const auto segment = static_cast<size_t>(after - starts_.begin()) - 1;
    const auto count = static_cast<size_t>(std::min<uint64_t>(ranks.size(), *after - in_epoch));
    segment_ranks(segment, epoch, in_epoch - starts_[segment], ranks.first(count));
    position += count;
    ranks = ranks.subspan(count);
  }
  ranking_.ranks_to_chunks(chunks);
}

std::vector<uint64_t> RankedOrder::rest_of_pass(uint64_t position) const {
  const uint64_t in_epoch = epoch_size() == 0 ? 0 : position % epoch_size();
  std::vector<uint64_t> rest(in_epoch == 0 ? 0 : epoch_size() - in_epoch);
  chunks_at(position, rest);
  return rest;
}

void RankedOrder::segment_ranks(size_t segment, uint64_t epoch, uint64_t offset, std::span<uint64_t> ranks) const {
  const auto& [first, size, walk, width] = segments_[segment];
  const uint64_t key = derive_key(derive_key(seed_, epoch), segment);
  switch (walk) {
    case Walk::kForward:
      return fill(ranks, first, offset, [](uint64_t index) { return index; });
    case Walk::kShuffled:
      return fill(ranks, first, offset, FeistelPermutation(key, size));
    case Walk::kJittered:
      return fill(ranks, first, offset, Jitter(key, size, std::min(width, size)));
    case Walk::kStrided:
      return fill(ranks, first, offset,
                  [count = size, strides = width](uint64_t index) { return strided_rank(index, count, strides); });
  }
}

}  // namespace fluxcore::data
