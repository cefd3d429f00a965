#include "ops/cross_entropy_kernels.hpp"

#include "ops/class_shares.hpp"
#include "ops/stablemax.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

template <class T>
std::int64_t largest(const void* row, std::int64_t classes) {
  using C = ComputeType<T>;
  const T* x = static_cast<const T*>(row);
  C top = static_cast<C>(-HUGE_VAL);
  std::int64_t block = 0;
  for_each_stretch<C>(classes, -1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t whole = begin + (end - begin) / kLanes<C> * kLanes<C>;
    C best = block_max<C>(x + begin, whole - begin);
    for (std::int64_t i = whole; i < end; ++i) best = to_compute(x[i]) > best ? to_compute(x[i]) : best;
    if (best > top) {
      top = best;
      block = begin;
    }
  });
  for (std::int64_t i = block; i < classes; ++i) {
    if (to_compute(x[i]) == top) return i;
  }
  return 0;
}

template <class T>
void scale(void* values, std::int64_t count, double factor) {
  using C = ComputeType<T>;
  T* v = static_cast<T*>(values);
  const C by = static_cast<C>(factor);
  for_each_vector<C>(0, count,
                     [&](std::int64_t i, auto lanes) { store_lanes<C>(load_lanes(v + i, lanes) * by, v + i, lanes); });
}

template <class T>
constexpr CrossEntropyKernels kKernels = {
    .share_sums = share_sums<T>,
    .sweep = share_sweep<T>,
    .largest = largest<T>,
    .stablemax_scan = stablemax_scan<T>,
    .stablemax_sweep = stablemax_sweep<T>,
    .scale = scale<T>,
};

}  // namespace

const CrossEntropyKernels& cross_entropy_kernels(DType dtype) {
  return for_element_type(dtype, []<class T>() -> const CrossEntropyKernels& { return kKernels<T>; });
}

}  // namespace fluxcore::FLUXCORE_ISA
