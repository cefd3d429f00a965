#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "data/feistel.hpp"
#include "data/order.hpp"
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

TEST_CASE("what cannot be an order is refused") {
  CHECK_THROWS_AS(RankedOrder(Ranking({1, 2}, 3), {}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{0, 4, Walk::kForward}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{3, 1, Walk::kForward}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{2, UINT64_MAX, Walk::kForward}}, 0), std::invalid_argument);
  CHECK_THROWS_AS(RankedOrder(Ranking({}, 3), {{0, 0, Walk::kForward}}, 0), std::invalid_argument);
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
