#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "data/feistel.hpp"
#include "data/mixture.hpp"
#include "data/order.hpp"
#include "data/order_chain.hpp"
#include "data/order_paced.hpp"
#include "data/radix_argsort.hpp"
#include "doctest.h"

using namespace fluxcore::data;

namespace {

std::vector<uint64_t> chunks(const Order& order, uint64_t position, size_t count) {
  std::vector<uint64_t> out(count);
  order.chunks_at(position, out);
  return out;
}

std::vector<uint64_t> iota(size_t count, uint64_t first = 0) {
  std::vector<uint64_t> out(count);
  std::iota(out.begin(), out.end(), first);
  return out;
}

}  // namespace

TEST_CASE("the permutation is one-to-one at every small size and around powers of two") {
  for (const uint64_t size :
       std::vector<uint64_t>{1, 2, 3, 4, 5, 7, 100, 255, 256, 257, 511, 512, 513, 4095, 4096, 4097, 100'000}) {
    CAPTURE(size);
    const FeistelPermutation permutation(42, size);
    std::vector<uint64_t> seen;
    for (uint64_t i = 0; i < size; ++i) {
      seen.push_back(permutation(i));
    }
    std::sort(seen.begin(), seen.end());
    CHECK(seen == iota(size));
  }
}

TEST_CASE("the permutation stays in range at the largest sizes") {
  for (const uint64_t size : {(uint64_t{1} << 62) + 1, uint64_t{1} << 63}) {
    const FeistelPermutation permutation(7, size);
    for (const uint64_t index : {uint64_t{0}, size / 2, size - 1}) {
      CHECK(permutation(index) < size);
    }
  }
}

TEST_CASE("an order's batches do not depend on how they are cut") {
  const RankedOrder order(Ranking({}, 1000), {{0, 300, Walk::kForward}, {300, 700, Walk::kShuffled}}, 3);
  const std::vector<uint64_t> whole = chunks(order, 0, 2500);
  for (const size_t size : std::vector<size_t>{1, 7, 999, 1001}) {
    std::vector<uint64_t> parts;
    while (parts.size() < whole.size()) {
      const auto part = chunks(order, parts.size(), std::min(size, whole.size() - parts.size()));
      parts.insert(parts.end(), part.begin(), part.end());
    }
    CHECK(parts == whole);
  }
}

TEST_CASE("every epoch visits its segments' ranks once, shuffled anew") {
  const RankedOrder order(Ranking({}, 1000), {{0, 300, Walk::kForward}, {300, 700, Walk::kShuffled}}, 3);
  std::vector<uint64_t> previous;
  for (uint64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<uint64_t> forward = chunks(order, epoch * 1000, 300);
    std::vector<uint64_t> shuffled = chunks(order, epoch * 1000 + 300, 700);
    CHECK(forward == iota(300));
    CHECK(shuffled != previous);
    previous = shuffled;
    std::sort(shuffled.begin(), shuffled.end());
    CHECK(shuffled == iota(700, 300));
  }
}

TEST_CASE("segments of one size are shuffled apart, and a ranking names the chunks") {
  const RankedOrder order(Ranking({}, 200), {{0, 100, Walk::kShuffled}, {0, 100, Walk::kShuffled}}, 3);
  CHECK(order.epoch_size() == 200);
  CHECK(chunks(order, 0, 100) != chunks(order, 100, 100));
  CHECK(chunks(RankedOrder(Ranking({30, 10, 20}, 3), {{0, 3, Walk::kForward}}, 0), 0, 4) ==
        std::vector<uint64_t>{30, 10, 20, 30});
}

TEST_CASE("jittered and strided segments visit their ranks once, whatever the width") {
  for (const uint64_t size : std::vector<uint64_t>{1, 2, 7, 64, 1000}) {
    for (const uint64_t width : std::vector<uint64_t>{1, 2, 3, 7, 64, 1000, UINT64_MAX}) {
      for (const Walk walk : {Walk::kJittered, Walk::kStrided}) {
        if (walk == Walk::kStrided && width > size) continue;
        std::vector<uint64_t> seen = chunks(RankedOrder(Ranking({}, size), {{0, size, walk, width}}, 9), 0, size);
        for (uint64_t p = 0; p < size && walk == Walk::kJittered; ++p) {
          CHECK(std::max(seen[p], p) - std::min(seen[p], p) < width);
        }
        std::sort(seen.begin(), seen.end());
        CHECK(seen == iota(size));
      }
    }
  }
}

TEST_CASE("a pool that grows is drawn from without replacement, and nothing of it is left out") {
  const std::vector<Pool> pools = {{0, 10}, {5, 20}, {5, 25}, {60, 40}, {61, 100}};
  const PacedOrder order(Ranking({}, 100), pools, false, 4);
  std::vector<bool> drawn(100);
  size_t count = 0;
  for (uint64_t position = 0; position < 400; ++position) {
    const size_t pool = position < 5 ? 10 : position < 60 ? 25 : position < 61 ? 40 : 100;
    if (count == pool) {
      std::fill(drawn.begin(), drawn.end(), false);
      count = 0;
    }
    if (count > 0) CHECK(order.rest_of_pass(position).size() == 100 - count);
    const uint64_t chunk = chunks(order, position, 1).front();
    CHECK(chunk < pool);
    CHECK(!drawn[chunk]);
    drawn[chunk] = true;
    ++count;
  }
  CHECK(order.unseen(0).size() == 100);
  CHECK(order.unseen(60).size() == 75);
  CHECK(order.unseen(400).empty());
}

TEST_CASE("a chain follows its links") {
  const auto all = std::make_shared<RankedOrder>(Ranking({}, 10), std::vector<Segment>{{0, 10, Walk::kForward}}, 0);
  const ChainOrder chain({{0, 0, all}, {4, 7, all}, {6, 0, all}}, 10);
  CHECK(chunks(chain, 0, 10) == std::vector<uint64_t>{0, 1, 2, 3, 7, 8, 0, 1, 2, 3});
  CHECK(chunks(chain, 3, 2) == std::vector<uint64_t>{3, 7});
  CHECK(chain.rest_of_pass(5) == std::vector<uint64_t>{8, 9});
  CHECK_THROWS_AS(ChainOrder({{1, 0, all}}, 10), std::invalid_argument);
}

TEST_CASE("a mixture keeps its shares, and a change of weights keeps the cursors") {
  const auto small = std::make_shared<RankedOrder>(Ranking({}, 3), std::vector<Segment>{{0, 3, Walk::kForward}}, 0);
  const auto large = std::make_shared<RankedOrder>(Ranking({}, 50), std::vector<Segment>{{0, 50, Walk::kForward}}, 0);
  const MixedOrder even({small, large}, 0, {0, 0}, {1 << 15, 1 << 15});
  const auto order = even.with_weights(100, {0, 1 << 16})->with_weights(170, {1 << 16, 0});
  CHECK(order->epoch_size() == 53);
  CHECK(order->cursors_at(100) == std::vector<uint64_t>{50, 50});
  CHECK(order->cursors_at(200) == std::vector<uint64_t>{80, 120});
  const std::vector<uint64_t> whole = chunks(*order, 0, 300);
  for (size_t row = 100; row < 170; ++row) CHECK(whole[row] == (row - 50) % 50);
  for (size_t row = 170; row < 300; ++row) CHECK(whole[row] == (row - 120) % 3);
  for (const size_t start : std::vector<size_t>{0, 99, 100, 169, 171}) {
    CHECK(chunks(*order, start, 50) == std::vector<uint64_t>(whole.begin() + static_cast<std::ptrdiff_t>(start),
                                                             whole.begin() + static_cast<std::ptrdiff_t>(start + 50)));
  }
  CHECK_THROWS_AS(MixedOrder({small}, 0, {0, 0}, {1 << 16}), std::invalid_argument);
  CHECK_THROWS_AS(MixedOrder({small}, 0, {0}, {7}), std::invalid_argument);
  CHECK_THROWS_AS(chunks(MixedOrder({small}, 5, {5}, {1 << 16}), 4, 1), std::out_of_range);
}

TEST_CASE("what cannot be an order is refused") {
  CHECK_THROWS_AS(RankedOrder(Ranking({1, 2}, 3), {}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{0, 4, Walk::kForward}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{3, 1, Walk::kForward}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{2, UINT64_MAX, Walk::kForward}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{0, 0, Walk::kForward}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{0, 3, Walk::kStrided, 4}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{0, 3, Walk::kJittered, 0}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(chunks(RankedOrder(Ranking({}, 0), {}, 0), 0, 1), std::out_of_range);
  CHECK(chunks(RankedOrder(Ranking({}, 0), {}, 0), 0, 0).empty());
}

TEST_CASE("radix argsort agrees with a stable sort") {
  for (const uint64_t mask : {uint64_t{0}, uint64_t{7}, uint64_t{0xFF00000000000000}, UINT64_MAX}) {
    for (const size_t count : std::vector<size_t>{0, 1, 2, 1000, 70'000}) {
      std::vector<uint64_t> keys(count);
      for (size_t i = 0; i < count; ++i) {
        keys[i] = mix64(i) & mask;
      }
      std::vector<uint64_t> sorted = iota(count);
      std::vector<uint64_t> expected = sorted;
      radix_argsort(keys, sorted);
      std::stable_sort(expected.begin(), expected.end(), [&](auto a, auto b) { return keys[a] < keys[b]; });
      CHECK(sorted == expected);
    }
  }
}
