#include "ops/gae_kernels.hpp"

#include "common/simd.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

constexpr std::int64_t kTile = 32;   // steps that are laid side by side at a time
constexpr std::int64_t kAhead = 16;  // steps from the one in hand to the one that is asked for

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

// kTile steps of kLanes rows, of each number as [kTile][kLanes].
template <class C>
struct Tile {
  alignas(64) C reward[kTile * kLanes<C>] = {};
  alignas(64) C value[kTile * kLanes<C>] = {};
  alignas(64) C live[kTile * kLanes<C>] = {};
  alignas(64) C ratio[kTile * kLanes<C>] = {};
  alignas(64) C counts[kTile * kLanes<C>] = {};
  alignas(64) C advantage[kTile * kLanes<C>] = {};
};

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
  for (std::int64_t t = 0; t < n; ++t) {
    tile.ratio[t * kLanes<C> + lane] = arrays.ratio == nullptr ? static_cast<C>(1) : arrays.ratio[from + t * stride];
  }
}

template <class T, class C>
void write_lane(const Tile<C>& tile, std::int64_t from, std::int64_t stride, std::int64_t n, int lane,
                const Arrays<T>& arrays) {
  for (std::int64_t t = 0; t < n; ++t) {
    const std::int64_t at = t * kLanes<C> + lane;
    const std::int64_t i = from + t * stride;
    const bool counts = tile.counts[at] != C{};
    arrays.advantages[i] = counts ? tile.advantage[at] : C{};
    arrays.returns[i] = counts ? tile.advantage[at] + tile.value[at] : C{};
  }
}

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
  Tile<C> tile;  // lanes beyond `count` stay 0
  for (std::int64_t end = call.steps; end > 0; end -= kTile) {
    const std::int64_t start = end > kTile ? end - kTile : 0;
    const std::int64_t n = end - start;
    for (int lane = 0; lane < count; ++lane) {
      read_lane(arrays, begin[lane] + start * call.inner, call.inner, n, lane, tile);
    }
    for (std::int64_t t = n - 1; t >= 0; --t) {
      const std::int64_t at = t * kLanes<C>;
      const Step<C> step = {.reward = load(tile.reward + at),
                            .value = load(tile.value + at),
                            .live = load(tile.live + at),
                            .ratio = load(tile.ratio + at),
                            .counts = load(tile.counts + at)};
      store<C>(recursion.before(step, carry), tile.advantage + at);
    }
    for (int lane = 0; lane < count; ++lane) {
      write_lane(tile, begin[lane] + start * call.inner, call.inner, n, lane, arrays);
    }
  }
}

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

template <class T>
void prefetch_step(const Arrays<T>& arrays, std::int64_t i, std::int64_t count) {
  using C = ComputeType<T>;
  const auto ask = [count](const auto* from) {
    const char* line = reinterpret_cast<const char*>(from);
    const auto bytes = static_cast<std::int64_t>(sizeof(*from)) * count;
    for (std::int64_t offset = 0; offset < bytes; offset += 64) __builtin_prefetch(line + offset);
  };
  ask(arrays.rewards + i);
  ask(arrays.values + i);
  if (arrays.dones_are_bytes) {
    ask(arrays.done_bytes + i);
  } else {
    ask(arrays.dones + i);
  }
  if (arrays.mask != nullptr) ask(arrays.mask + i);
  if (arrays.ratio != nullptr) ask(static_cast<const C*>(arrays.ratio + i));
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
  for (std::int64_t t = call.steps - 1; t >= 0; --t) {
    if (t >= kAhead) prefetch_step(arrays, begin + (t - kAhead) * call.inner, count);
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t i = begin + t * call.inner + g * kLanes<C>;
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
