#pragma once

// Squares of numbers turned over, in registers. Include after common/simd.hpp.

#include <utility>

#include "common/simd.hpp"

namespace fluxcore::FLUXCORE_ISA {

// Lanes of `first`, and after all of them those of `second`, by number.
template <class C, int... From>
inline Vec<C> lanes_of(Vec<C> first, Vec<C> second, std::integer_sequence<int, From...> /*lanes*/) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(first, second, From...);
#else
  return __builtin_shuffle(first, second, IntVec<C>{From...});
#endif
}

// What each of two rows, `half` apart, gets of both.
template <int half, int... Lane>
constexpr auto lower_lanes(std::integer_sequence<int, Lane...> /*lanes*/) {
  constexpr int lanes = sizeof...(Lane);
  return std::integer_sequence<int, ((Lane & half) == 0 ? Lane : lanes + Lane - half)...>{};
}
template <int half, int... Lane>
constexpr auto upper_lanes(std::integer_sequence<int, Lane...> /*lanes*/) {
  constexpr int lanes = sizeof...(Lane);
  return std::integer_sequence<int, ((Lane & half) == 0 ? Lane + half : lanes + Lane)...>{};
}

// rows[i][j] and rows[j][i] change places, in each of the squares of `size` x `size` that lie side by side in `size`
// rows: first in quarters of a square, then within them.
template <class C, int size = kLanes<C>, int half = size / 2>
inline void transpose(Vec<C>* rows) {
  if constexpr (half > 0) {
    using Lanes = std::make_integer_sequence<int, kLanes<C>>;
    for (int i = 0; i < size; ++i) {
      if ((i & half) != 0) continue;
      const Vec<C> first = rows[i];
      const Vec<C> second = rows[i + half];
      rows[i] = lanes_of<C>(first, second, lower_lanes<half>(Lanes{}));
      rows[i + half] = lanes_of<C>(first, second, upper_lanes<half>(Lanes{}));
    }
    transpose<C, size, half / 2>(rows);
  }
}

}  // namespace fluxcore::FLUXCORE_ISA
