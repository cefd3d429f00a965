#pragma once

// The arrays of a call of `gae`, and pieces of them with several rows side by side. Part of gae_kernels.simd.cpp.

#include <cstring>

#include "common/simd.hpp"
#include "common/simd_transpose.hpp"
#include "ops/gae.hpp"

namespace fluxcore::FLUXCORE_ISA {

// Steps that are laid side by side at a time: of every row and array that many lie together in memory.
inline constexpr std::int64_t kTile = 128;

// The call's arrays by their types.
template <class T>
struct Arrays {
  using C = ComputeType<T>;

  Arrays(const GaeCall& call, const GaeResults& results)
      : rewards(static_cast<const T*>(call.rewards)),
        values(static_cast<const T*>(call.values)),
        dones_are_bytes(call.dones_are_bytes),
        done_bytes(static_cast<const std::uint8_t*>(call.dones)),
        dones(static_cast<const C*>(call.dones)),
        bootstrap(static_cast<const C*>(call.bootstrap)),
        mask(call.mask),
        ratio(static_cast<const C*>(call.ratio)),
        advantages(static_cast<C*>(results.advantages)),
        returns(static_cast<C*>(results.returns)) {}

  [[nodiscard]] C live(std::int64_t i) const {
    return static_cast<C>(1) - (dones_are_bytes ? static_cast<C>(done_bytes[i] != 0) : dones[i]);
  }
  [[nodiscard]] C counts(std::int64_t i) const { return static_cast<C>(mask == nullptr || mask[i] != 0); }

  const T* rewards;
  const T* values;
  bool dones_are_bytes;
  const std::uint8_t* done_bytes;  // the one or the other
  const C* dones;
  const C* bootstrap;
  const std::uint8_t* mask;
  const C* ratio;
  C* advantages;
  C* returns;
};

template <int Count>
struct BytesOf {
  using type [[gnu::vector_size(Count)]] = std::uint8_t;
};

// 1 where a byte is not 0.
template <class C>
Vec<C> load_flags(const std::uint8_t* from) {
  typename BytesOf<kLanes<C>>::type bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  const Vec<C> flags = __builtin_convertvector(bytes, Vec<C>);
  return flags != C{} ? splat(static_cast<C>(1)) : Vec<C>{};
}

// kTile steps of kLanes rows, of each number as [kTile][kLanes].
template <class C>
struct Tile {
  static constexpr std::int64_t kSize = kTile * kLanes<C>;

  // For at most so many steps a time: lanes without a row stay 0, arrays that a call does not have 1.
  explicit Tile(std::int64_t steps) {
    const std::int64_t n = (steps < kTile ? steps : kTile) * kLanes<C>;
    for (std::int64_t i = 0; i < n; ++i) reward[i] = value[i] = live[i] = C{};
    for (std::int64_t i = 0; i < n; ++i) ratio[i] = counts[i] = static_cast<C>(1);
  }

  // NOLINTBEGIN(*-member-init): clearing all would cost short rows more than their steps
  alignas(64) C reward[kSize];
  alignas(64) C value[kSize];
  alignas(64) C live[kSize];
  alignas(64) C ratio[kSize];
  alignas(64) C counts[kSize];
  alignas(64) C advantage[kSize];  // 0, as the next, where a step does not count
  alignas(64) C ret[kSize];
  // NOLINTEND(*-member-init)
};

// One row of a piece, wherever its steps lie.
template <class T, class C>
void read_lane(const Arrays<T>& arrays, std::int64_t from, std::int64_t stride, std::int64_t n, int lane,
               Tile<C>& tile) {
  for (std::int64_t t = 0; t < n; ++t) {
    const std::int64_t to = t * kLanes<C> + lane;
    const std::int64_t i = from + t * stride;
    tile.reward[to] = to_compute(arrays.rewards[i]);
    tile.value[to] = to_compute(arrays.values[i]);
    tile.live[to] = arrays.live(i);
  }
  for (std::int64_t t = 0; t < n; ++t) tile.counts[t * kLanes<C> + lane] = arrays.counts(from + t * stride);
  if (arrays.ratio == nullptr) return;
  for (std::int64_t t = 0; t < n; ++t) tile.ratio[t * kLanes<C> + lane] = arrays.ratio[from + t * stride];
}

template <class T, class C>
void write_lane(const Tile<C>& tile, std::int64_t from, std::int64_t stride, std::int64_t n, int lane,
                const Arrays<T>& arrays) {
  for (std::int64_t t = 0; t < n; ++t) {
    const std::int64_t at = t * kLanes<C> + lane;
    const std::int64_t i = from + t * stride;
    arrays.advantages[i] = tile.advantage[at];
    arrays.returns[i] = tile.ret[at];
  }
}

// n steps, a multiple of kLanes, of each of kLanes rows as [n][rows]; `load_at(lane, t)` is kLanes steps of a row. One
// array after the other, since rows of a power of two share a set of the cache, which has room for one array's lines.
template <class C, class Load>
inline void read_squares(C* to, std::int64_t n, const Load& load_at) {
  for (std::int64_t t = 0; t < n; t += kLanes<C>) {
    Vec<C> square[kLanes<C>];
    for (int lane = 0; lane < kLanes<C>; ++lane) square[lane] = load_at(lane, t);
    transpose<C>(square);
    for (int step = 0; step < kLanes<C>; ++step) store<C>(square[step], to + (t + step) * kLanes<C>);
  }
}

// And back, to the first of rows of `row_length` steps.
template <class C>
inline void write_squares(const C* from, std::int64_t n, C* to, std::int64_t row_length) {
  for (std::int64_t t = 0; t < n; t += kLanes<C>) {
    Vec<C> square[kLanes<C>];
    for (int step = 0; step < kLanes<C>; ++step) square[step] = load(from + (t + step) * kLanes<C>);
    transpose<C>(square);
    for (int lane = 0; lane < kLanes<C>; ++lane) store<C>(square[lane], to + lane * row_length + t);
  }
}

// n steps, a multiple of kLanes, of kLanes neighbouring rows of `row_length` steps each, from index `from` of the
// first.
template <class T, class C>
void read_lanes(const Arrays<T>& arrays, std::int64_t from, std::int64_t row_length, std::int64_t n, Tile<C>& tile) {
  const auto at = [&](int lane, std::int64_t t) { return from + lane * row_length + t; };
  read_squares<C>(tile.reward, n, [&](int lane, std::int64_t t) { return load(arrays.rewards + at(lane, t)); });
  read_squares<C>(tile.value, n, [&](int lane, std::int64_t t) { return load(arrays.values + at(lane, t)); });
  const Vec<C> one = splat(static_cast<C>(1));
  if (arrays.dones_are_bytes) {
    read_squares<C>(tile.live, n,
                    [&](int lane, std::int64_t t) { return one - load_flags<C>(arrays.done_bytes + at(lane, t)); });
  } else {
    read_squares<C>(tile.live, n, [&](int lane, std::int64_t t) { return one - load(arrays.dones + at(lane, t)); });
  }
  if (arrays.mask != nullptr) {
    read_squares<C>(tile.counts, n, [&](int lane, std::int64_t t) { return load_flags<C>(arrays.mask + at(lane, t)); });
  }
  if (arrays.ratio != nullptr) {
    read_squares<C>(tile.ratio, n, [&](int lane, std::int64_t t) { return load(arrays.ratio + at(lane, t)); });
  }
}

template <class T, class C>
void write_lanes(const Tile<C>& tile, std::int64_t from, std::int64_t row_length, std::int64_t n,
                 const Arrays<T>& arrays) {
  write_squares<C>(tile.advantage, n, arrays.advantages + from, row_length);
  write_squares<C>(tile.ret, n, arrays.returns + from, row_length);
}

// Asks for kTile steps of each row: more streams than the processor follows by itself.
template <class T>
void prefetch_lanes(const Arrays<T>& arrays, std::int64_t from, std::int64_t row_length, int lanes) {
  const auto ask = [&](const auto* array) {
    constexpr auto kPerLine = static_cast<std::int64_t>(64 / sizeof(*array));
    for (int lane = 0; lane < lanes; ++lane) {
      for (std::int64_t t = 0; t < kTile; t += kPerLine) __builtin_prefetch(array + from + lane * row_length + t, 0, 3);
    }
  };
  ask(arrays.rewards);
  ask(arrays.values);
  if (arrays.dones_are_bytes) {
    ask(arrays.done_bytes);
  } else {
    ask(arrays.dones);
  }
  if (arrays.mask != nullptr) ask(arrays.mask);
  if (arrays.ratio != nullptr) ask(arrays.ratio);
  ask(arrays.advantages);
  ask(arrays.returns);
}

}  // namespace fluxcore::FLUXCORE_ISA
