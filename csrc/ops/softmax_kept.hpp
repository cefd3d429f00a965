#pragma once

// The largest elements of a row, which its sums leave out. Part of softmax_kernels.simd.cpp.

#include <cmath>

#include "common/simd.hpp"
#include "ops/softmax_kernels.hpp"

namespace fluxcore::FLUXCORE_ISA {

// The elements that offers pushed out of the list, if they came from earlier blocks.
struct Evicted {
  int count = 0;
  double value[kMaxTopK];  // NOLINT(*-member-init): clearing it would cost a short row a tenth of its time
};

// Puts an element that comes after all those in the list in its place; NaN never gets one.
inline void offer(double value, std::int64_t index, std::int64_t block_begin, RowScan& row, Evicted& evicted) {
  if (value != value || (row.kept == row.keep && !(value > row.value[row.keep - 1]))) return;
  if (row.kept == row.keep) {
    --row.kept;
    if (row.index[row.kept] < block_begin) evicted.value[evicted.count++] = row.value[row.kept];
  }
  int place = row.kept++;
  for (; place > 0 && row.value[place - 1] < value; --place) {
    row.value[place] = row.value[place - 1];
    row.index[place] = row.index[place - 1];
  }
  row.value[place] = value;
  row.index[place] = index;
}

// For a list of one: the first element that equals `top`, the largest of whole groups, of which n count.
template <class C>
void take_top(const C* x, std::int64_t n, C top, std::int64_t begin, RowScan& row, Evicted& evicted) {
  std::int64_t i = 0;
  std::uint32_t lanes = 0;
  for (; i < n && lanes == 0; i += kLanes<C>) lanes = lanes_at_least<C>(load(x + i), splat(top));
  if (lanes == 0) return;  // all NaN
  const std::int64_t found = i - kLanes<C> + __builtin_ctz(lanes);
  if (found >= n) return;  // all NaN, and the padding's -inf
  if (row.kept == 1) evicted.value[evicted.count++] = row.value[0];
  row.kept = 1;
  row.value[0] = static_cast<double>(top);
  row.index[0] = begin + found;
}

// Offers all elements that could have a place; `top` is the largest of the block.
template <class C>
void offer_block(const C* x, std::int64_t n, C top, std::int64_t begin, RowScan& row, Evicted& evicted) {
  if (row.keep == 1) return take_top(x, n, top, begin, row, evicted);
  // The analyzer does not see that fill_scratch has written x[0, n).
  // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage)
  const auto offer_at = [&](std::int64_t j) { offer(static_cast<double>(x[j]), begin + j, begin, row, evicted); };
  std::int64_t next = 0;
  while (next < n && row.kept < row.keep) offer_at(next++);
  for (std::int64_t i = 0; i < n; i += kGroup<C>) {
    const Vec<C> threshold = splat(static_cast<C>(row.value[row.keep - 1]));
    const bool whole = i + kGroup<C> <= n;
    if (whole &&
        (lanes_at_least<C>(load(x + i), threshold) | lanes_at_least<C>(load(x + i + kLanes<C>), threshold)) == 0) {
      continue;
    }
    const std::int64_t stop = whole ? i + kGroup<C> : n;
    for (std::int64_t j = next > i ? next : i; j < stop; ++j) offer_at(j);
  }
}

}  // namespace fluxcore::FLUXCORE_ISA
