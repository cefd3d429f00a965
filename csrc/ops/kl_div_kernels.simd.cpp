#include "ops/kl_div_kernels.hpp"

#include "ops/kl_div_mixture.hpp"
#include "ops/kl_div_scan.hpp"
#include "ops/kl_div_sweep.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

template <class T>
void scan(const void* x, const void* v, std::int64_t classes, double temperature, PairScan& row) {
  const T* first = static_cast<const T*>(x);
  const T* second = static_cast<const T*>(v);
  if (temperature == 1.0) {
    PairScanner<T, false>(temperature).run(first, second, classes, row);
  } else {
    PairScanner<T, true>(temperature).run(first, second, classes, row);
  }
}

template <class T>
void mixture(const void* x, const void* v, std::int64_t classes, double temperature, const PairScan& row,
             Mixture& sums) {
  const T* first = static_cast<const T*>(x);
  const T* second = static_cast<const T*>(v);
  if (temperature == 1.0) {
    MixtureSummer<T, false>(temperature, row, sums).run(first, second, classes, sums);
  } else {
    MixtureSummer<T, true>(temperature, row, sums).run(first, second, classes, sums);
  }
}

template <class T, template <class, bool> class Rule>
void sweep(const void* x, const void* v, void* gradient, std::int64_t classes, double temperature,
           const PairSweep& row) {
  using C = ComputeType<T>;
  const T* first = static_cast<const T*>(x);
  const T* second = static_cast<const T*>(v);
  T* out = static_cast<T*>(gradient);
  if (temperature == 1.0) {
    sweep_pairs(first, second, out, classes, Rule<C, false>(temperature, row));
  } else {
    sweep_pairs(first, second, out, classes, Rule<C, true>(temperature, row));
  }
}

template <class T>
constexpr KlDivKernels kKernels = {
    .scan = scan<T>,
    .mixture = mixture<T>,
    .sweep = {sweep<T, PolicyRefGradient>, sweep<T, RefPolicyGradient>, sweep<T, MixtureGradient>},
};

}  // namespace

const KlDivKernels& kl_div_kernels(DType dtype) {
  return for_element_type(dtype, []<class T>() -> const KlDivKernels& { return kKernels<T>; });
}

}  // namespace fluxcore::FLUXCORE_ISA
