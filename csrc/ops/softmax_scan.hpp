#pragma once

// One pass over a row: its largest elements, and the sums over the rest. Part of softmax_kernels.simd.cpp.
//
// A block that fits in L1 is read twice: its maximum first, then e^z against the largest element of the row so far. A
// block that holds none of the elements kept out, which is nearly all of them, costs no more than that. Sums are in C
// (float, or double for double) within a block and in double over blocks.

#include <cmath>

#include "common/simd.hpp"
#include "common/simd_math.hpp"
#include "ops/softmax_kernels.hpp"

namespace fluxcore::FLUXCORE_ISA {

inline constexpr std::int64_t kBlock =
    2048;  // elements: 8 KiB of float, a quarter of the smallest L1 with the next block
template <class C>
inline constexpr int kGroup = 2 * kLanes<C>;  // elements an iteration: two chains of sums hide the latency of addition

template <class C>
inline constexpr C kLowest = sizeof(C) == 4 ? static_cast<C>(-0x1.fffffep127) : static_cast<C>(-0x1.fffffffffffffp1023);

inline double scaled(double difference, const LogitTransform& transform) { return difference / transform.temperature; }

// Division by the temperature as a product with its inverse in two parts, which rounds about once as division does.
template <class C>
class Temperature {
 public:
  explicit Temperature(const LogitTransform& transform)
      : floor_(static_cast<C>(-1000.0 * transform.temperature)),
        inverse_(static_cast<C>(1.0 / transform.temperature)),
        rest_(static_cast<C>(std::fma(-static_cast<double>(inverse_), transform.temperature, 1.0) /
                             transform.temperature)) {}

  // Cut where e^z is 0 in any type, so that -inf does not meet a negative rest.
  [[nodiscard]] Vec<C> divide(Vec<C> difference) const {
    const Vec<C> finite = max_or_second<C>(splat(floor_), difference);
    return finite * inverse_ + finite * rest_;
  }

 private:
  C floor_;
  C inverse_;
  C rest_;
};

// scratch[0, n) = c of x, then -inf up to a whole group; returns the padded length.
template <class T, class C>
std::int64_t fill_scratch(const T* x, std::int64_t n, const LogitTransform& transform, C* scratch) {
  const std::int64_t padded = (n + kGroup<C> - 1) / kGroup<C> * kGroup<C>;
  std::int64_t i = 0;
  for (; i + kLanes<C> <= n; i += kLanes<C>) store<C>(load(x + i), scratch + i);
  for (; i < padded; ++i) scratch[i] = i < n ? to_compute(x[i]) : static_cast<C>(-HUGE_VAL);
  if (transform.softcap > 0) {
    for (i = 0; i < padded; i += kLanes<C>)
      store<C>(softcap(load(scratch + i), static_cast<C>(transform.softcap)), scratch + i);
    for (i = n; i < padded; ++i) scratch[i] = static_cast<C>(-HUGE_VAL);
  }
  return padded;
}

// Largest of whole groups; NaN does not count.
template <class C, class Src>
C block_max(const Src* x, std::int64_t n) {
  Vec<C> a = splat(static_cast<C>(-HUGE_VAL));
  Vec<C> b = a;
  for (std::int64_t i = 0; i < n; i += kGroup<C>) {
    a = max_or_second<C>(load(x + i), a);
    b = max_or_second<C>(load(x + i + kLanes<C>), b);
  }
  return lane_max<C>(max_or_second<C>(a, b));
}

// Asks for the lines of the block after this one, while this one is computed.
template <class C, class Src>
inline void prefetch_group(const Src* x) {
  const char* ahead = reinterpret_cast<const char*>(x + kBlock);
  for (std::size_t line = 0; line < kGroup<C> * sizeof(Src); line += 64) __builtin_prefetch(ahead + line);
}

// Sums over two vectors at a time.
template <class C>
struct VectorSums {
  Vec<C> s[2] = {};
  Vec<C> t[2] = {};
  Vec<C> q[2] = {};

  void operator+=(const VectorSums& other) {
    for (int k = 0; k < 2; ++k) {
      s[k] += other.s[k];
      t[k] += other.t[k];
      q[k] += other.q[k];
    }
  }
};

// Takes one group in `Every`.
template <int Moments, bool Scaled, int Every, class C, class Src>
void add_groups(const Src* x, std::int64_t n, C largest, const LogitTransform& transform, C centre, Sums& sums) {
  // Elements added up before they join the block's sums: short chains keep the rounding of equal terms from piling up.
  constexpr std::int64_t kStep = Every * kGroup<C>;
  constexpr std::int64_t kChain = 16 * kStep;
  const Exp<C> exp;
  const Temperature<C> temperature(transform);
  VectorSums<C> block;
  for (std::int64_t begin = 0; begin < n; begin += kChain) {
    VectorSums<C> chain;
    const std::int64_t end = begin + kChain < n ? begin + kChain : n;
    for (std::int64_t i = begin; i < end; i += kStep) {
      prefetch_group<C>(x + i);
      for (int k = 0; k < 2; ++k) {
        Vec<C> z = load(x + i + k * kLanes<C>) - largest;
        if constexpr (Scaled) z = temperature.divide(z);
        const Vec<C> e = exp(z, z);
        chain.s[k] += e;
        if constexpr (Moments == 1) chain.t[k] += z * e;
        if constexpr (Moments == 2) {
          const Vec<C> u = z - centre;
          const Vec<C> ue = u * e;
          chain.t[k] += ue;
          chain.q[k] += u * ue;
        }
      }
    }
    block += chain;
  }
  Sums added = {.s = lane_sum<C>(block.s[0] + block.s[1])};
  if constexpr (Moments >= 1) {
    const double t = lane_sum<C>(block.t[0] + block.t[1]);
    added.t = t + static_cast<double>(centre) * added.s;
    if (Moments == 2 && added.s > 0.0) {
      const double off_mean = t * (t / added.s);
      const double m2 = lane_sum<C>(block.q[0] + block.q[1]) - off_mean;
      added.m2 = m2 > 0.0 ? m2 : 0.0;
    }
  }
  sums.add(added);
}

// Adds whole groups to the row's sums. z^2 e^z is summed about a centre near the mean of z: about 0 the rounding of
// each product would be magnified by mean^2 / varentropy. The row so far knows the mean, unless this block has a new
// largest element; then a sample of the block tells.
template <int Moments, bool Scaled, class C, class Src>
void add_block(const Src* x, std::int64_t n, C largest, bool is_new, const LogitTransform& transform, Sums& sums) {
  double centre = 0.0;
  if constexpr (Moments == 2) {
    Sums sample = sums;
    if (is_new) {
      sample = {};
      if (n <= 32 * kGroup<C>) {
        add_groups<1, Scaled, 1>(x, n, largest, transform, C{}, sample);
      } else {
        add_groups<1, Scaled, 8>(x, n, largest, transform, C{}, sample);
      }
    }
    centre = sample.mean();
  }
  add_groups<Moments, Scaled, 1>(x, n, largest, transform, static_cast<C>(centre), sums);
}

// The elements that offers pushed out of the list, if they came from earlier blocks.
struct Evicted {
  int count = 0;
  double value[kMaxTopK];
};

inline void add_element(double value, const LogitTransform& transform, RowScan& row) {
  const double z = scaled(value - row.value[0], transform);
  const double e = std::exp(z);
  if (!(e > 0.0)) return;  // -inf * 0
  row.sums.add({.s = e, .t = z * e});
}

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

template <class C, class Src>
void offer_block(const Src* x, std::int64_t n, std::int64_t begin, RowScan& row, Evicted& evicted) {
  std::int64_t i = 0;
  for (; i < n && row.kept < row.keep; ++i)
    offer(static_cast<double>(to_compute(x[i])), begin + i, begin, row, evicted);
  while (i < n) {
    const std::int64_t stop = i + kLanes<C> <= n ? i + kLanes<C> : n;
    if (stop - i < kLanes<C> || any_greater<C>(load(x + i), splat(static_cast<C>(row.value[row.keep - 1])))) {
      for (std::int64_t j = i; j < stop; ++j)
        offer(static_cast<double>(to_compute(x[j])), begin + j, begin, row, evicted);
    }
    i = stop;
  }
}

// Sums against a new, larger reference.
inline void rescale(double old_largest, double new_largest, const LogitTransform& transform, Sums& sums) {
  if (sums.s == 0.0 || old_largest == new_largest) return;
  const double d = scaled(old_largest - new_largest, transform);
  const double a = std::exp(d);
  sums.m2 *= a;
  sums.t = a > 0.0 ? a * (sums.t + d * sums.s) : 0.0;
  sums.s *= a;
}

// Offers a block to the list and brings the sums in line with it; true if the block holds an element kept out.
template <class C, class Src>
bool update_kept(const Src* x, std::int64_t n, std::int64_t begin, const LogitTransform& transform, RowScan& row) {
  Evicted evicted;
  const double old_largest = row.value[0];
  offer_block<C>(x, n, begin, row, evicted);
  rescale(old_largest, row.value[0], transform, row.sums);
  for (int k = 0; k < evicted.count; ++k) add_element(evicted.value[k], transform, row);
  for (int k = 0; k < row.kept; ++k) {
    if (row.index[k] >= begin) return true;
  }
  return false;
}

template <class T, int Moments, bool Scaled>
void scan_row(const void* data, std::int64_t classes, const LogitTransform& transform, RowScan& row) {
  using C = ComputeType<T>;
  const T* x = static_cast<const T*>(data);
  const bool cap = transform.softcap > 0;
  alignas(64) C scratch[kBlock];
  row.kept = 0;
  row.value[0] = -HUGE_VAL;
  row.sums = {};
  std::int64_t n = 0;
  for (std::int64_t begin = 0; begin < classes; begin += n) {
    const T* block = x + begin;
    n = classes - begin < kBlock ? classes - begin : kBlock;
    if (n > kGroup<C>) n -= n % kGroup<C>;
    bool is_new = false;
    bool in_scratch = cap || n < kGroup<C>;
    std::int64_t padded = n;
    if (in_scratch) padded = fill_scratch(block, n, transform, scratch);

    const C top = in_scratch ? block_max<C>(scratch, padded) : block_max<C>(block, n);
    if (row.kept < row.keep || static_cast<double>(top) > row.value[row.keep - 1]) {
      const double old_largest = row.value[0];
      const bool holds_kept = in_scratch ? update_kept<C>(scratch, n, begin, transform, row)
                                         : update_kept<C>(block, n, begin, transform, row);
      is_new = begin == 0 || row.value[0] != old_largest;
      if (holds_kept) {
        if (!in_scratch) padded = fill_scratch(block, n, transform, scratch);
        in_scratch = true;
        for (int k = 0; k < row.kept; ++k) {
          if (row.index[k] >= begin) scratch[row.index[k] - begin] = static_cast<C>(-HUGE_VAL);
        }
      }
    }
    // A finite stand-in while all is -inf (or NaN): e^(-inf - -inf) would be NaN.
    C largest = static_cast<C>(row.value[0]);
    if (!(largest > kLowest<C>)) largest = kLowest<C>;
    if (in_scratch) {
      add_block<Moments, Scaled>(scratch, padded, largest, is_new, transform, row.sums);
    } else {
      add_block<Moments, Scaled>(block, n, largest, is_new, transform, row.sums);
    }
  }
}

}  // namespace fluxcore::FLUXCORE_ISA
