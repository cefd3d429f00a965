#include "data/radix_argsort.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace fluxcore::data {

namespace {

constexpr int kDigitBits = 8;
constexpr int kDigits = (64 + kDigitBits - 1) / kDigitBits;
constexpr size_t kBuckets = size_t{1} << kDigitBits;

// Key and index travel together: a pass then reads memory in order.
struct Item {
  uint64_t key;
  uint64_t index;
};

size_t digit(uint64_t key, int place) { return static_cast<size_t>(key >> (place * kDigitBits)) & (kBuckets - 1); }

void counting_pass(std::span<const Item> from, std::span<Item> to, int place) {
  std::array<size_t, kBuckets> next{};
  for (const Item& item : from) {
    ++next[digit(item.key, place)];
  }
  size_t start = 0;
  for (size_t& bucket : next) {
    start += std::exchange(bucket, start);
  }
  for (const Item& item : from) {
    to[next[digit(item.key, place)]++] = item;
  }
}

}  // namespace

void radix_argsort(std::span<const uint64_t> keys, std::span<uint64_t> permutation) {
  const auto key_less = [&](uint64_t a, uint64_t b) { return keys[a] < keys[b]; };
  if (std::ranges::is_sorted(permutation, key_less)) {
    return;
  }
  std::vector<Item> items(permutation.size());
  uint64_t varying = 0;  // bits in which some key differs from the first
  for (size_t i = 0; i < items.size(); ++i) {
    items[i] = {.key = keys[permutation[i]], .index = permutation[i]};
    varying |= items[i].key ^ items[0].key;
  }
  std::vector<Item> spare(items.size());
  for (int place = 0; place < kDigits; ++place) {
    if (digit(varying, place) != 0) {
      counting_pass(items, spare, place);
      items.swap(spare);
    }
  }
  std::ranges::transform(items, permutation.begin(), &Item::index);
}

}  // namespace fluxcore::data
