#include "data/order_paced.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace fluxcore::data {

namespace {

constexpr uint64_t kScatterKey = ~uint64_t{0};  // no stretch has this number

void check_pools(std::span<const Pool> pools, uint64_t ranks) {
  const bool whole = !pools.empty() && pools.front().begin == 0 && pools.front().size > 0 && pools.back().size == ranks;
  const bool rising = std::ranges::is_sorted(pools, {}, &Pool::begin) && std::ranges::is_sorted(pools, {}, &Pool::size);
  if (!whole || !rising) {
    throw std::invalid_argument("`pools` must begin at position 0, rise, and end with all " + std::to_string(ranks) +
                                " ranks");
  }
}

}  // namespace

PacedOrder::PacedOrder(Ranking ranking, std::span<const Pool> pools, bool scattered, uint64_t seed)
    : ranking_(std::move(ranking)),
      scattered_(scattered),
      seed_(seed),
      scatter_(derive_key(seed, kScatterKey), std::max<uint64_t>(ranking_.size(), 1)) {
  check_pools(pools, ranking_.size());
  build(pools);
}

void PacedOrder::build(std::span<const Pool> pools) {
  uint64_t pool_before = 0;
  uint64_t left = 0;  // of the pool, undrawn by the pass in progress
  uint64_t covered = 0;
  for (size_t p = 0; p < pools.size(); ++p) {
    const auto [begin, pool] = pools[p];
    const uint64_t length = p + 1 < pools.size() ? pools[p + 1].begin - begin : UINT64_MAX - begin;
    if (length == 0) {
      continue;
    }
    const uint64_t to_draw = left + pool - pool_before;
    const uint64_t drawn = std::min(length, to_draw);
    if (to_draw > 0) {
      add_stretch({.begin = begin, .size = to_draw, .carried = left, .fresh = pool_before, .covered = covered}, drawn);
    }
    left = to_draw - drawn;
    if (drawn < length) {  // whole passes over the pool, the last of them perhaps cut off
      covered = pool;
      add_stretch({.begin = begin + drawn, .size = pool, .covered = covered}, length - drawn);
      left = pool - stretches_.back().drawn;
    }
    pool_before = pool;
  }
}

void PacedOrder::add_stretch(Stretch stretch, uint64_t length) {
  const uint64_t last_pass = (length - 1) / stretch.size;
  stretch.drawn = length - last_pass * stretch.size;
  stretches_.push_back(stretch);
  stretches_.back().last_pass = shuffle(stretches_.size() - 1, last_pass);
}

size_t PacedOrder::stretch_at(uint64_t position) const {
  const auto after = std::ranges::upper_bound(stretches_, position, {}, &Stretch::begin);
  return static_cast<size_t>(after - stretches_.begin()) - 1;
}

FeistelPermutation PacedOrder::shuffle(size_t stretch, uint64_t pass) const {
  return {derive_key(derive_key(seed_, stretch), pass), stretches_[stretch].size};
}

uint64_t PacedOrder::rank(size_t stretch, uint64_t index) const {
  while (index < stretches_[stretch].carried) {
    const Stretch& before = stretches_[--stretch];
    index = before.last_pass(before.drawn + index);
  }
  return stretches_[stretch].fresh + index - stretches_[stretch].carried;
}

void PacedOrder::ranks_to_chunks(std::span<uint64_t> ranks) const {
  if (scattered_) {
    for (uint64_t& rank : ranks) {
      rank = scatter_(rank);
    }
  }
  ranking_.ranks_to_chunks(ranks);
}

void PacedOrder::chunks_at(uint64_t position, std::span<uint64_t> chunks) const {
  std::span<uint64_t> ranks = chunks;
  while (!ranks.empty()) {
    const size_t number = stretch_at(position);
    const Stretch& stretch = stretches_[number];
    const uint64_t pass = (position - stretch.begin) / stretch.size;
    uint64_t index = (position - stretch.begin) % stretch.size;
    uint64_t count = std::min<uint64_t>(ranks.size(), stretch.size - index);
    if (number + 1 < stretches_.size()) {
      count = std::min(count, stretches_[number + 1].begin - position);
    }
    const FeistelPermutation permutation = shuffle(number, pass);
    for (uint64_t& each : ranks.first(count)) {
      each = rank(number, permutation(index++));
    }
    position += count;
    ranks = ranks.subspan(count);
  }
  ranks_to_chunks(chunks);
}

std::vector<uint64_t> PacedOrder::rest_ranks(uint64_t position) const {
  if (position == 0) {
    return {};
  }
  const size_t number = stretch_at(position);
  const Stretch& stretch = stretches_[number];
  std::vector<uint64_t> rest;
  const uint64_t drawn = (position - stretch.begin) % stretch.size;
  // Where a stretch adds nothing, the pass before it has just drawn the whole pool.
  const bool begins = drawn == 0 && stretch.carried == 0 && stretch.fresh == 0;
  if (!begins) {
    const FeistelPermutation permutation = shuffle(number, (position - stretch.begin) / stretch.size);
    for (uint64_t index = drawn; index < stretch.size; ++index) {
      rest.push_back(rank(number, permutation(index)));
    }
  }
  for (uint64_t rank = stretch.pool(); rank < ranking_.size(); ++rank) {
    rest.push_back(rank);
  }
  return rest;
}

std::vector<uint64_t> PacedOrder::rest_of_pass(uint64_t position) const {
  std::vector<uint64_t> rest = rest_ranks(position);
  ranks_to_chunks(rest);
  return rest;
}

std::vector<uint64_t> PacedOrder::unseen(uint64_t end) const {
  std::vector<uint64_t> ranks(end == 0 ? ranking_.size() : 0);
  if (end == 0) {
    for (uint64_t rank = 0; rank < ranks.size(); ++rank) {
      ranks[rank] = rank;
    }
  } else if (const uint64_t covered = stretches_[stretch_at(end)].covered; covered < ranking_.size()) {
    ranks = rest_ranks(end);
    std::erase_if(ranks, [covered](uint64_t rank) { return rank < covered; });
  }
  ranks_to_chunks(ranks);
  return ranks;
}

}  // namespace fluxcore::data
