#include "data/order_chain.hpp"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <utility>

namespace fluxcore::data {

ChainOrder::ChainOrder(std::vector<Link> links, uint64_t epoch_size)
    : links_(std::move(links)), epoch_size_(epoch_size) {
  const bool rising = std::ranges::is_sorted(links_, std::ranges::less_equal{}, &Link::begin);
  if (links_.empty() || links_.front().begin != 0 || !rising) {
    throw std::invalid_argument("`links` must begin at position 0 and rise");
  }
}

size_t ChainOrder::link_at(uint64_t position) const {
  const auto after = std::ranges::upper_bound(links_, position, {}, &Link::begin);
  return static_cast<size_t>(after - links_.begin()) - 1;
}

void ChainOrder::chunks_at(uint64_t position, std::span<uint64_t> chunks) const {
  while (!chunks.empty()) {
    const size_t number = link_at(position);
    const Link& link = links_[number];
    uint64_t count = chunks.size();
    if (number + 1 < links_.size()) {
      count = std::min(count, links_[number + 1].begin - position);
    }
    link.order->chunks_at(position - link.begin + link.offset, chunks.first(count));
    position += count;
    chunks = chunks.subspan(count);
  }
}

std::vector<uint64_t> ChainOrder::rest_of_pass(uint64_t position) const {
  const Link& link = links_[link_at(position)];
  return link.order->rest_of_pass(position - link.begin + link.offset);
}

}  // namespace fluxcore::data
