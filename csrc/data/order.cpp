#include "data/order.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "data/feistel.hpp"

namespace fluxcore::data {

Order::Order(std::vector<uint64_t> ranking, uint64_t ranks, std::vector<Segment> segments, uint64_t seed)
    : ranking_(std::move(ranking)), segments_(std::move(segments)), seed_(seed) {
  if (!ranking_.empty() && ranking_.size() != ranks) {
    throw std::invalid_argument("`ranking` must be empty or have `ranks` = " + std::to_string(ranks) +
                                " entries, got " + std::to_string(ranking_.size()));
  }
  starts_.reserve(segments_.size() + 1);
  starts_.push_back(0);
  for (const Segment& segment : segments_) {
    if (segment.size == 0 || segment.first >= ranks || segment.size > ranks - segment.first) {
      throw std::invalid_argument("a segment must be a part of the ranks [0, " + std::to_string(ranks) + "), got " +
                                  std::to_string(segment.size) + " ranks from " + std::to_string(segment.first));
    }
    starts_.push_back(starts_.back() + segment.size);
  }
}

void Order::chunks_at(uint64_t position, std::span<uint64_t> chunks) const {
  if (chunks.empty()) {
    return;
  }
  if (epoch_size() == 0) {
    throw std::out_of_range("an order over no chunks has no position " + std::to_string(position));
  }
  while (!chunks.empty()) {
    const uint64_t epoch = position / epoch_size();
    const uint64_t in_epoch = position % epoch_size();
    const auto after = std::ranges::upper_bound(starts_, in_epoch);
    const auto segment = static_cast<size_t>(after - starts_.begin()) - 1;
    const auto count = static_cast<size_t>(std::min<uint64_t>(chunks.size(), *after - in_epoch));
    segment_chunks(segment, epoch, in_epoch - starts_[segment], chunks.first(count));
    position += count;
    chunks = chunks.subspan(count);
  }
}

void Order::segment_chunks(size_t segment, uint64_t epoch, uint64_t offset, std::span<uint64_t> chunks) const {
  const auto& [first, size, walk] = segments_[segment];
  if (walk == Walk::kShuffled) {
    const FeistelPermutation permutation(derive_key(derive_key(seed_, epoch), segment), size);
    for (uint64_t& chunk : chunks) {
      chunk = first + permutation(offset++);
    }
  } else {
    for (uint64_t& chunk : chunks) {
      chunk = first + offset++;
    }
  }
  if (!ranking_.empty()) {
    for (uint64_t& chunk : chunks) {
      chunk = ranking_[chunk];
    }
  }
}

}  // namespace fluxcore::data
