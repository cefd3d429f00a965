#pragma once

#include <cstdint>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/softmax_kernels.hpp"

// The loops over one row that cross entropy has beyond those of softmax_kernels.hpp, once for each instruction set.
namespace fluxcore {

// How much of the loss is due to each class: c_i = w_i (share P_i + floor).
struct ClassShares {
  const void* weight = nullptr;         // [V] float, or double for double; none: w = 1
  const void* probabilities = nullptr;  // [V] of the logits' type; none: c = w
  double share = 0.0;
  double floor = 0.0;
};

// Sums over classes; a share of 0 adds 0, also where z = -inf.
struct ShareSums {
  double mass = 0.0;    // sum c
  double moment = 0.0;  // sum c z
};

struct StableMaxScan {
  double others = 0.0;  // sum sigma over all classes but the one kept out
  ShareSums sums;       // over the same, with z = log sigma; 0 unless asked for
};

struct CrossEntropyKernels {
  // Over all classes but `kept_out` (none: -1), with z = (c(x) - largest) / temperature.
  ShareSums (*share_sums)(const void* row, std::int64_t classes, std::int64_t kept_out, const ClassShares&,
                          const LogitTransform&, double largest);
  // As SoftmaxKernels::sweep, less factor * chain * c_i.
  void (*sweep)(const void* row, void* gradient, std::int64_t classes, const ClassShares&, const LogitTransform&,
                const RowSweep&, double factor);
  // The first index of the largest element; NaN does not count.
  std::int64_t (*largest)(const void* row, std::int64_t classes);
  StableMaxScan (*stablemax_scan)(const void* row, std::int64_t classes, std::int64_t kept_out, bool with_sums,
                                  const ClassShares&);
  // gradient_i = sigma'_i / sigma_i * (a sigma_i - factor c_i), 0 at a logit of -inf.
  void (*stablemax_sweep)(const void* row, void* gradient, std::int64_t classes, const ClassShares&, double a,
                          double factor);
  // values[0, count) *= factor.
  void (*scale)(void* values, std::int64_t count, double factor);
};

namespace portable {
const CrossEntropyKernels& cross_entropy_kernels(DType dtype);
}
namespace avx2 {
const CrossEntropyKernels& cross_entropy_kernels(DType dtype);
}
namespace avx512 {
const CrossEntropyKernels& cross_entropy_kernels(DType dtype);
}

// Throws std::invalid_argument if this build or this processor has no `isa`.
const CrossEntropyKernels& cross_entropy_kernels(Isa isa, DType dtype);

}  // namespace fluxcore
