#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace fluxcore::data {

// Finaliser of splitmix64: every input bit reaches every output bit. All arithmetic is modulo 2^64, so that an order
// is the same on every platform.
constexpr uint64_t mix64(uint64_t x) noexcept {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ULL;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// One 64-bit key out of two; fold from the left for more.
constexpr uint64_t derive_key(uint64_t key, uint64_t value) noexcept {
  return mix64(mix64(key + 0x9E3779B97F4A7C15ULL) ^ (value + 0xD1B54A32D192ED03ULL));
}

// A keyed permutation of [0, size) that needs no memory: entry i is computed on its own, in O(1).
//
// Six Feistel rounds over the two halves of the smallest power of two >= max(size, 256); a result outside [0, size) is
// permuted again until it falls inside (cycle walking), which keeps the map one-to-one. The floor of 256 gives the
// smallest sizes enough round-function entropy to be fair.
class FeistelPermutation {
 public:
  constexpr FeistelPermutation(uint64_t key, uint64_t size) noexcept : size_(size) {
    const auto bits = static_cast<int>(std::bit_width(std::max(size, kMinDomain) - 1));
    low_bits_ = bits / 2;
    low_mask_ = (uint64_t{1} << low_bits_) - 1;
    high_mask_ = (uint64_t{1} << (bits - low_bits_)) - 1;
    for (int round = 0; round < kRounds; ++round) {
      round_keys_[round] = derive_key(key, static_cast<uint64_t>(round));
    }
  }

  constexpr uint64_t operator()(uint64_t index) const noexcept {
    do {
      index = permute_domain(index);
    } while (index >= size_);
    return index;
  }

 private:
  static constexpr int kRounds = 6;
  static constexpr uint64_t kMinDomain = 256;

  [[nodiscard]] constexpr uint64_t permute_domain(uint64_t x) const noexcept {
    uint64_t low = x & low_mask_;
    uint64_t high = x >> low_bits_;
    for (int round = 0; round < kRounds; round += 2) {
      high ^= scramble(low, round_keys_[round]) & high_mask_;
      low ^= scramble(high, round_keys_[round + 1]) & low_mask_;
    }
    return (high << low_bits_) | low;
  }

  // The upper half of a product depends on every bit below it; two of them are enough for a round.
  static constexpr uint64_t scramble(uint64_t half, uint64_t key) noexcept {
    uint64_t x = (half ^ key) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 32)) * 0x94D049BB133111EBULL;
    return x >> 32;
  }

  uint64_t size_;
  int low_bits_ = 0;
  uint64_t low_mask_ = 0;
  uint64_t high_mask_ = 0;
  uint64_t round_keys_[kRounds] = {};
};

}  // namespace fluxcore::data
