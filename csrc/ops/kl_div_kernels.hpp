#pragma once

#include <cstdint>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/softmax_kernels.hpp"

// The loops over two rows of logits, once for each instruction set. What comes before and after them a row is scalar,
// is in double and belongs to the op (kl_div_fwd.cpp, kl_div_bwd.cpp).
//
// With p the softmax of x / T, r that of v / T and delta = (x - v) / T, log(p/r) of a class is
// delta - pivot - shift. The pivot is the delta of the class with most of p, or a mean of delta, so that the shift is
// small where the rows nearly agree; it is one of the row's type, so that delta - pivot is exact there.
namespace fluxcore {

// KL(p || r) and what makes log p, log r and log(p/r) of a class.
struct PairScan {
  double largest = 0.0;      // max x
  double ref_largest = 0.0;  // max v
  double lse = 0.0;          // log sum e^(x/T)
  double pivot = 0.0;        // these two: see above
  double shift = 0.0;
  double mean = 0.0;        // of delta - pivot under p
  double divergence = 0.0;  // inf if p has a class that r has not, NaN if a row is no distribution
};

// Sums over classes for M = beta p + (1 - beta) r.
struct Mixture {
  double beta;
  double divergence = 0.0;  // beta KL(p || M) + (1 - beta) KL(r || M)
  double mass = 0.0;        // p
  double moment = 0.0;      // p log(p/M): over the mass it is KL(p || M) with the rounding that each log(p/M) has
};

// Gradient of a row by x: scale times
//   policy_ref  p (delta - pivot - centre)     ref_policy  p - r     jsd  p (log(p/M) - centre)
struct PairSweep {
  double scale;
  double lse;
  double pivot;
  double shift;
  double centre;
  double beta;
};

// log of the other row's sum.
inline double ref_lse(double lse, double pivot, double shift) { return lse - pivot - shift; }

struct KlDivKernels {
  using Sweep = void (*)(const void* x, const void* v, void* gradient, std::int64_t classes, double temperature,
                         const PairSweep&);

  void (*scan)(const void* x, const void* v, std::int64_t classes, double temperature, PairScan&);
  void (*mixture)(const void* x, const void* v, std::int64_t classes, double temperature, const PairScan&, Mixture&);
  Sweep sweep[3];  // by Direction
};

namespace portable {
const KlDivKernels& kl_div_kernels(DType dtype);
}
namespace avx2 {
const KlDivKernels& kl_div_kernels(DType dtype);
}
namespace avx512 {
const KlDivKernels& kl_div_kernels(DType dtype);
}

}  // namespace fluxcore
