#pragma once

// One pass over a row: its largest elements, and the sums over the rest. Part of softmax_kernels.simd.cpp.
//
// A block that fits in L1 is read twice: its maximum first, then e^z against the largest element of the row so far. A
// block that holds none of the elements kept out, which is nearly all of them, costs no more than that. Sums are in C
// (float, or double for double) within a block and in double over blocks.

#include <cmath>

#include "common/simd.hpp"
#include "common/simd_math.hpp"
#include "ops/softmax_kept.hpp"
#include "ops/softmax_kernels.hpp"

namespace fluxcore::FLUXCORE_ISA {

inline constexpr std::int64_t kBlock =
    2048;  // elements: 8 KiB of float, a quarter of the smallest L1 with the next block

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
  for (; i + kLanes<C> <= n; i += kLanes<C>) {
    store<C>(load(x + i), scratch + i);
  }
  for (; i < padded; ++i) scratch[i] = i < n ? to_compute(x[i]) : static_cast<C>(-HUGE_VAL);
  if (transform.softcap > 0) {
    const C cap = static_cast<C>(transform.softcap);
    for (i = 0; i < padded; i += kLanes<C>) store<C>(softcap(load(scratch + i), cap), scratch + i);
    for (i = n; i < padded; ++i) scratch[i] = static_cast<C>(-HUGE_VAL);
  }
  return padded;
}

// Largest of whole groups; NaN does not count.
template <class C, class Src>
C block_max(const Src* x, std::int64_t n) {
  Vec<C> top[4];
  for (auto& lanes : top) lanes = splat(static_cast<C>(-HUGE_VAL));
  std::int64_t i = 0;
  for (; i + 2 * kGroup<C> <= n; i += 2 * kGroup<C>) {
    for (int k = 0; k < 2; ++k) {
      const Both<C> both = load_both(x + i + k * kGroup<C>);
      top[2 * k] = max_or_second<C>(both.part[0], top[2 * k]);
      top[2 * k + 1] = max_or_second<C>(both.part[1], top[2 * k + 1]);
    }
  }
  for (; i < n; i += kLanes<C>) top[0] = max_or_second<C>(load(x + i), top[0]);
  return lane_max<C>(max_or_second<C>(max_or_second<C>(top[0], top[1]), max_or_second<C>(top[2], top[3])));
}

// Whole groups of c, in the row or copied from it, and the elements of the row that come after them.
template <class Src, class T>
struct Block {
  const Src* x;
  std::int64_t n;
  const T* next;
};

// Asks for the lines of the next block that a group's place in this one stands for, while this one is computed.
template <class C, class T>
inline void prefetch_group(const T* next) {
  const char* ahead = reinterpret_cast<const char*>(next);
  for (std::size_t line = 0; line < kGroup<C> * sizeof(T); line += 64) __builtin_prefetch(ahead + line);
}

// One chain of sums a moment: an exponential takes longer than an addition, and registers are short.
template <class C>
struct VectorSums {
  Vec<C> s = {};
  Vec<C> t = {};
  Vec<C> q = {};

  void operator+=(const VectorSums& other) {
    s += other.s;
    t += other.t;
    q += other.q;
  }
};

// Takes one group in `Every`.
template <int Moments, bool Scaled, int Every, class C, class Src, class T>
void add_groups(const Block<Src, T>& block, C largest, const LogitTransform& transform, C centre, Sums& sums) {
  // Elements added up before they join the block's sums: short chains keep the rounding of equal terms from piling up,
  // those a lane adds and their number alike.
  constexpr std::int64_t kStep = Every * kGroup<C>;
  constexpr std::int64_t kChain = (kLanes<C> < 4 ? 16 : 8) * kStep;
  const Exp<C> exp;
  const Temperature<C> temperature(transform);
  VectorSums<C> total;
  for (std::int64_t begin = 0; begin < block.n; begin += kChain) {
    VectorSums<C> chain;
    const std::int64_t end = begin + kChain < block.n ? begin + kChain : block.n;
    for (std::int64_t i = begin; i < end; i += kStep) {
      prefetch_group<C>(block.next + i);
      const Both<C> both = load_both(block.x + i);
      for (int k = 0; k < 2; ++k) {
        Vec<C> z = both.part[k] - largest;
        if constexpr (Scaled) z = temperature.divide(z);
        const Vec<C> e = exp(z, z);
        chain.s += e;
        if constexpr (Moments == 1) chain.t += z * e;
        if constexpr (Moments == 2) {
          const Vec<C> u = z - centre;
          const Vec<C> ue = u * e;
          chain.t += ue;
          chain.q += u * ue;
        }
      }
    }
    total += chain;
  }
  const double s = lane_sum(total.s);
  const double t = Moments >= 1 ? lane_sum(total.t) : 0.0;
  const double about_mean = Moments == 2 && s > 0.0 ? lane_sum(total.q) - t * (t / s) : 0.0;
  sums.add({.s = s, .t = t + static_cast<double>(centre) * s, .m2 = about_mean > 0.0 ? about_mean : 0.0});
}

// A value near the mean of z, from every eighth group of a long block.
template <bool Scaled, class C, class Src, class T>
C sample_mean(const Block<Src, T>& block, C largest, const LogitTransform& transform) {
  Sums sample;
  if (block.n <= 32 * kGroup<C>) {
    add_groups<1, Scaled, 1>(block, largest, transform, C{}, sample);
  } else {
    add_groups<1, Scaled, 8>(block, largest, transform, C{}, sample);
  }
  return static_cast<C>(sample.mean());
}

// Adds whole groups to the row's sums. The spread is summed about a centre near the mean of z: about 0 the rounding of
// each product would be magnified by mean^2 / varentropy. The row so far knows the mean, unless this block has a new
// largest element.
template <int Moments, bool Scaled, class C, class Src, class T>
void add_block(const Block<Src, T>& block, C largest, bool is_new, const LogitTransform& transform, Sums& sums) {
  if constexpr (Moments == 2) {
    const C centre = is_new ? sample_mean<Scaled>(block, largest, transform) : static_cast<C>(sums.mean());
    add_groups<2, Scaled, 1>(block, largest, transform, centre, sums);
  } else {
    add_groups<Moments, Scaled, 1>(block, largest, transform, C{}, sums);
  }
}

inline void add_element(double value, const LogitTransform& transform, RowScan& row) {
  const double z = scaled(value - row.value[0], transform);
  const double e = std::exp(z);
  if (!(e > 0.0)) return;  // -inf * 0
  row.sums.add({.s = e, .t = z * e});
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

// Offers a block to the list, brings the sums in line with it, and cuts from the block what is kept out.
template <class C>
void update_kept(C* scratch, std::int64_t n, C top, std::int64_t begin, const LogitTransform& transform, RowScan& row) {
  Evicted evicted;
  const double old_largest = row.value[0];
  offer_block(scratch, n, top, begin, row, evicted);
  rescale(old_largest, row.value[0], transform, row.sums);
  for (int k = 0; k < evicted.count; ++k) add_element(evicted.value[k], transform, row);
  for (int k = 0; k < row.kept; ++k) {
    if (row.index[k] >= begin) scratch[row.index[k] - begin] = static_cast<C>(-HUGE_VAL);
  }
}

// Elements of the block at `begin`: whole groups where they are read in place, and in a long row a first block that
// ends where vectors are aligned.
template <class T>
std::int64_t block_length(const T* x, std::int64_t begin, std::int64_t classes) {
  constexpr std::int64_t kGroupOfT = kGroup<ComputeType<T>>;
  if (begin == 0 && classes > 2 * kBlock) {
    const auto past_line = bits_as<std::uintptr_t>(x) % 64 / sizeof(T);
    return kBlock - static_cast<std::int64_t>(past_line);
  }
  const std::int64_t n = classes - begin < kBlock ? classes - begin : kBlock;
  return n > kGroupOfT ? n - n % kGroupOfT : n;
}

template <class T, int Moments, bool Scaled>
void scan_row(const void* data, std::int64_t classes, const LogitTransform& transform, RowScan& row) {
  using C = ComputeType<T>;
  const T* x = static_cast<const T*>(data);
  alignas(64) C scratch[kBlock];
  row.kept = 0;
  row.value[0] = -HUGE_VAL;
  row.sums = {};
  std::int64_t n = 0;
  for (std::int64_t begin = 0; begin < classes; begin += n) {
    const T* block = x + begin;
    n = block_length(x, begin, classes);
    std::int64_t padded = n;
    // In place unless elements are to be changed: by the softcap, by padding, or, as in every first block, kept out.
    bool in_scratch = transform.softcap > 0 || begin == 0 || n % kGroup<C> != 0;
    if (in_scratch) padded = fill_scratch(block, n, transform, scratch);
    const C top = in_scratch ? block_max<C>(scratch, padded) : block_max<C>(block, n);
    bool is_new = begin == 0;
    if (row.kept < row.keep || static_cast<double>(top) > row.value[row.keep - 1]) {
      if (!in_scratch) padded = fill_scratch(block, n, transform, scratch);
      in_scratch = true;
      const double old_largest = row.value[0];
      update_kept(scratch, n, top, begin, transform, row);
      is_new |= row.value[0] != old_largest;
    }
    // A finite stand-in while all is -inf (or NaN): e^(-inf - -inf) would be NaN.
    C largest = static_cast<C>(row.value[0]);
    if (!(largest > kLowest<C>)) largest = kLowest<C>;
    if (in_scratch) {
      add_block<Moments, Scaled>(Block<C, T>{scratch, padded, block + n}, largest, is_new, transform, row.sums);
    } else {
      add_block<Moments, Scaled>(Block<T, T>{block, n, block + n}, largest, is_new, transform, row.sums);
    }
  }
}

}  // namespace fluxcore::FLUXCORE_ISA
