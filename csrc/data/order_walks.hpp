#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "data/feistel.hpp"

namespace fluxcore::data {

// Rank at a position of `strides` passes over [0, size): 0, strides, 2 strides, ..., then 1, strides + 1, ...
// `strides` within [1, size]. Where it does not divide the size, the first passes are longer by one.
constexpr uint64_t strided_rank(uint64_t position, uint64_t size, uint64_t strides) noexcept {
  const uint64_t length = size / strides;
  const uint64_t longer = size % strides;  // passes of length + 1
  if (position < longer * (length + 1)) {
    return (position % (length + 1)) * strides + position / (length + 1);
  }
  position -= longer * (length + 1);
  return (position % length) * strides + longer + position / length;
}

// A permutation of [0, size) that cuts it into blocks and shuffles each: [0, first), then blocks of `width`.
class BlockShuffle {
 public:
  BlockShuffle(uint64_t key, uint64_t size, uint64_t width, uint64_t first) noexcept
      : key_(key), size_(size), width_(width), first_(first) {}

  uint64_t operator()(uint64_t index) noexcept {
    if (index < begin_ || index >= end_) {
      enter_block(index);
    }
    return begin_ + (shuffle_ ? (*shuffle_)(index - begin_) : listed_[index - begin_]);
  }

 private:
  // Neighbours mostly share a block, so the last one is kept.
  void enter_block(uint64_t index) noexcept {
    const uint64_t block = index < first_ ? 0 : (index - first_) / width_ + 1;
    begin_ = block == 0 ? 0 : first_ + (block - 1) * width_;
    end_ = std::min(size_, block == 0 ? first_ : begin_ + width_);
    const uint64_t key = derive_key(key_, block);
    if (end_ - begin_ <= listed_.size()) {
      shuffle_.reset();
      list_block(key);
    } else {
      shuffle_.emplace(key, end_ - begin_);
    }
  }

  // In a block much smaller than the Feistel domain most of the cycle walking would be outside: Fisher-Yates.
  void list_block(uint64_t key) noexcept {
    for (uint64_t i = 0; i < end_ - begin_; ++i) {
      const uint64_t other = ((derive_key(key, i) >> 32) * (i + 1)) >> 32;  // within [0, i], as good as fair
      listed_[i] = listed_[other];
      listed_[other] = static_cast<uint8_t>(i);
    }
  }

  uint64_t key_;
  uint64_t size_;
  uint64_t width_;
  uint64_t first_;
  uint64_t begin_ = 0;
  uint64_t end_ = 0;
  std::optional<FeistelPermutation> shuffle_;
  std::array<uint8_t, 64> listed_ = {};  // where the block's entries go, without shuffle_
};

// A permutation of [0, size) that moves nothing by `window` places or more.
//
// Two block shuffles, one after the other, with their borders half a block apart: what the first may not carry across a
// border the second may. Their widths a and b satisfy (a - 1) + (b - 1) = window - 1. The key also places the borders,
// so that they lie elsewhere in each epoch.
class Jitter {
 public:
  Jitter(uint64_t key, uint64_t size, uint64_t window) noexcept : Jitter(key, size, window / 2 + 1, (window + 1) / 2) {}

  uint64_t operator()(uint64_t position) noexcept { return second_(first_(position)); }

 private:
  Jitter(uint64_t key, uint64_t size, uint64_t a, uint64_t b) noexcept
      : first_(derive_key(key, 1), size, a, derive_key(key, 0) % a),
        second_(derive_key(key, 2), size, b, (derive_key(key, 0) % a + a / 2) % b) {}

  BlockShuffle first_;
  BlockShuffle second_;
};

}  // namespace fluxcore::data
