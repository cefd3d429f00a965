#include "ops/gae_kernels.hpp"

#include "common/simd.hpp"
#include "ops/gae_tile.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

constexpr std::int64_t kAhead = 1024;  // elements from those in hand to those that are asked for

// What a step takes from the one after it.
template <class C>
struct Carry {
  Vec<C> advantage = {};
  Vec<C> value = {};
};

// One step of kLanes rows; `live` is 1 - done.
template <class C>
struct Step {
  Vec<C> reward;
  Vec<C> value;
  Vec<C> live;
  Vec<C> ratio;   // 1 where there is none
  Vec<C> counts;  // 0 where the step does not
};

template <class C>
class Recursion {
 public:
  explicit Recursion(const GaeCall& call)
      : gamma_(static_cast<C>(call.gamma)),
        decay_(static_cast<C>(call.gamma * call.lam)),
        rho_clip_(call.ratio == nullptr ? static_cast<C>(1) : static_cast<C>(call.rho_clip)),
        c_clip_(call.ratio == nullptr ? static_cast<C>(1) : static_cast<C>(call.c_clip)) {}

  // Returns the advantages, of all lanes.
  Vec<C> before(const Step<C>& step, Carry<C>& carry) const {
    // An episode that ends here has nothing after it, not even a NaN.
    const auto ends = step.live == C{};
    const Vec<C> next_value = ends ? Vec<C>{} : step.live * carry.value;
    const Vec<C> next_advantage = ends ? Vec<C>{} : step.live * carry.advantage;
    const Vec<C> delta = (step.reward + gamma_ * next_value) - step.value;
    const Vec<C> rho = step.ratio > rho_clip_ ? splat(rho_clip_) : step.ratio;
    const Vec<C> c = step.ratio > c_clip_ ? splat(c_clip_) : step.ratio;
    const Vec<C> advantage = rho * delta + decay_ * c * next_advantage;
    const auto counts = step.counts != C{};
    carry.advantage = counts ? advantage : carry.advantage;
    carry.value = counts ? step.value : carry.value;
    return advantage;
  }

 private:
  C gamma_;
  C decay_;
  C rho_clip_;
  C c_clip_;
};

template <class T>
void rows(const GaeCall& call, const GaeResults& results, std::int64_t first, std::int64_t count) {
  using C = ComputeType<T>;
  const Arrays<T> arrays(call, results);
  const Recursion<C> recursion(call);
  std::int64_t begin[kLanes<C>] = {};
  Carry<C> carry;
  for (int lane = 0; lane < count; ++lane) {
    const std::int64_t row = first + lane;
    begin[lane] = row / call.inner * call.steps * call.inner + row % call.inner;
    carry.value[lane] = arrays.bootstrap[row];
  }
  const bool neighbours = count == kLanes<C> && call.inner == 1;
  Tile<C> tile(call.steps);
  for (std::int64_t end = call.steps; end > 0;) {
    std::int64_t start = end > kTile ? end - kTile : 0;
    if (neighbours && end - start > kLanes<C>) start += (end - start) % kLanes<C>;  // whole squares first
    const std::int64_t n = end - start;
    const bool square = neighbours && n % kLanes<C> == 0;
    if (square) {
      if (start >= kTile) prefetch_lanes(arrays, begin[0] + start - kTile, call.steps, kLanes<C>);
      read_lanes(arrays, begin[0] + start, call.steps, n, tile);
    } else {
      for (int lane = 0; lane < count; ++lane) {
        read_lane(arrays, begin[lane] + start * call.inner, call.inner, n, lane, tile);
      }
    }
    for (std::int64_t t = n - 1; t >= 0; --t) {
      const std::int64_t at = t * kLanes<C>;
      const Step<C> step = {.reward = load(tile.reward + at),
                            .value = load(tile.value + at),
                            .live = load(tile.live + at),
                            .ratio = load(tile.ratio + at),
                            .counts = load(tile.counts + at)};
      const Vec<C> advantage = recursion.before(step, carry);
      const auto counts = step.counts != C{};
      store<C>(counts ? advantage : Vec<C>{}, tile.advantage + at);
      store<C>(counts ? advantage + step.value : Vec<C>{}, tile.ret + at);
    }
    if (square) {
      write_lanes(tile, begin[0] + start, call.steps, n, arrays);
    } else {
      for (int lane = 0; lane < count; ++lane) {
        write_lane(tile, begin[lane] + start * call.inner, call.inner, n, lane, arrays);
      }
    }
    end = start;
  }
}

// Asks for what a later iteration loads at i.
template <class T>
void prefetch_step(const Arrays<T>& arrays, std::int64_t i) {
  __builtin_prefetch(arrays.rewards + i);
  __builtin_prefetch(arrays.values + i);
  if (arrays.dones_are_bytes) {
    __builtin_prefetch(arrays.done_bytes + i);
  } else {
    __builtin_prefetch(arrays.dones + i);
  }
  if (arrays.mask != nullptr) __builtin_prefetch(arrays.mask + i);
  if (arrays.ratio != nullptr) __builtin_prefetch(arrays.ratio + i);
}

template <class T>
void columns(const GaeCall& call, const GaeResults& results, std::int64_t first, std::int64_t count) {
  using C = ComputeType<T>;
  constexpr std::int64_t kGroups = kGaeColumns / kLanes<C>;
  const Arrays<T> arrays(call, results);
  const Recursion<C> recursion(call);
  const std::int64_t begin = first / call.inner * call.steps * call.inner + first % call.inner;
  const std::int64_t groups = count / kLanes<C>;
  const Vec<C> one = splat(static_cast<C>(1));
  Carry<C> carry[kGroups];
  for (std::int64_t g = 0; g < groups; ++g) carry[g].value = load(arrays.bootstrap + first + g * kLanes<C>);
  const std::int64_t ahead = (kAhead + count - 1) / count;  // in steps
  for (std::int64_t t = call.steps - 1; t >= 0; --t) {
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t i = begin + t * call.inner + g * kLanes<C>;
      if (t >= ahead) prefetch_step(arrays, i - ahead * call.inner);
      const Vec<C> done = arrays.dones_are_bytes ? load_flags<C>(arrays.done_bytes + i) : load(arrays.dones + i);
      const Step<C> step = {.reward = load(arrays.rewards + i),
                            .value = load(arrays.values + i),
                            .live = one - done,
                            .ratio = arrays.ratio != nullptr ? load(arrays.ratio + i) : one,
                            .counts = arrays.mask != nullptr ? load_flags<C>(arrays.mask + i) : one};
      const Vec<C> advantage = recursion.before(step, carry[g]);
      const auto counts = step.counts != C{};
      store<C>(counts ? advantage : Vec<C>{}, arrays.advantages + i);
      store<C>(counts ? advantage + step.value : Vec<C>{}, arrays.returns + i);
    }
  }
}

template <class T>
constexpr GaeKernels kKernels = {.lanes = kLanes<ComputeType<T>>, .rows = rows<T>, .columns = columns<T>};

}  // namespace

const GaeKernels& gae_kernels(DType dtype) {
  return for_element_type(dtype, []<class T>() -> const GaeKernels& { return kKernels<T>; });
}

}  // namespace fluxcore::FLUXCORE_ISA
