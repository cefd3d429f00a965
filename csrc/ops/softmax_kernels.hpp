#pragma once

#include <cstdint>

#include "common/cpu.hpp"
#include "common/dtype.hpp"

// The loops over one row of logits, once for each instruction set. What comes before and after them a row is scalar, is
// in double and belongs to the ops (softmax_stats.cpp).
namespace fluxcore {

inline constexpr int kMaxTopK = 64;

// The x that the softmax is of is c / temperature, with c = softcap * tanh(logit / softcap) if softcap > 0, else the
// logit.
struct LogitTransform {
  double temperature = 1.0;
  double softcap = 0.0;
};

// Sums over elements with weights e^z: the weight, the mean and the spread about the mean. Spreads of parts add up
// without the cancellation of sum z^2 e^z - (sum z e^z)^2 / s.
struct Sums {
  double s = 0.0;   // sum e^z
  double t = 0.0;   // sum z e^z
  double m2 = 0.0;  // sum (z - t/s)^2 e^z

  [[nodiscard, gnu::always_inline]] double mean() const { return s > 0.0 ? t / s : 0.0; }

  // Source: Chan, Golub and LeVeque (1979), the pairwise update of a variance.
  [[gnu::always_inline]] void add(const Sums& other) {
    if (other.s == 0.0) return;
    const double d = mean() - other.mean();
    m2 += other.m2 + d * d * (s * (other.s / (s + other.s)));
    s += other.s;
    t += other.t;
  }
};

// What one pass over a row of c keeps. The largest `keep` elements stay out of the sums, so that nothing cancels when
// they have nearly all the mass; all others are in `sums` with z = (c - value[0]) / temperature. sums.s is NaN if the
// row has a NaN, and may be if it has several +inf.
struct RowScan {
  int keep = 1;                       // in: 1 to kMaxTopK
  int kept = 0;                       // min(keep, classes), less where a row has NaN
  double value[kMaxTopK] = {};        // c, falling; equal ones by index
  std::int64_t index[kMaxTopK] = {};  // their classes
  Sums sums;
};

// Gradient of a row: g = chain * e^z (a + b z + c z^2) with z = (c(x) - largest) / temperature and chain = dc/dx,
// and the gradient at a logit of -inf is 0.
struct RowSweep {
  double largest;
  double a;
  double b;
  double c;
};

struct SoftmaxKernels {
  using Scan = void (*)(const void* row, std::int64_t classes, const LogitTransform&, RowScan&);
  using Sweep = void (*)(const void* row, void* gradient, std::int64_t classes, const LogitTransform&, const RowSweep&);

  // By moments: s only; s and t; s, t and m2.
  Scan scan[3];
  Sweep sweep;
  double (*read)(const void* row, std::int64_t i);
  void (*write)(void* row, std::int64_t i, double value);
  std::int64_t (*first_nan)(const void* row, std::int64_t classes);  // -1 if there is none
};

namespace portable {
const SoftmaxKernels& softmax_kernels(DType dtype);
}
namespace avx2 {
const SoftmaxKernels& softmax_kernels(DType dtype);
}
namespace avx512 {
const SoftmaxKernels& softmax_kernels(DType dtype);
}

// Throws std::invalid_argument if this build or this processor has no `isa`.
const SoftmaxKernels& softmax_kernels(Isa isa, DType dtype);

}  // namespace fluxcore
