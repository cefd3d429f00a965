#pragma once

#include <cstdint>

#include "ops/ortho.hpp"

// Loops over a stretch of one tensor, once for each instruction set.
namespace fluxcore {

// Sums over a stretch, of the weight w and the direction d that is to be projected.
struct OrthoSums {
  double ww = 0.0;
  double wd = 0.0;
  double dd = 0.0;
};

// `tensor` is moved to the stretch's first element and has its count. A null `options` means that the direction is the
// gradient itself.
struct OrthoKernels {
  OrthoSums (*sums)(const OrthoTensor& tensor, const AdamOptions* options);
  double (*rest)(const OrthoTensor& tensor, const AdamOptions* options, double along);  // sum (d - along w)^2
  void (*project)(const OrthoTensor& tensor, const Projection& projection);
  void (*step)(const OrthoTensor& tensor, const AdamOptions& options, const Projection& projection);
};

namespace portable {
const OrthoKernels& ortho_kernels();
}
namespace avx2 {
const OrthoKernels& ortho_kernels();
}
namespace avx512 {
const OrthoKernels& ortho_kernels();
}

}  // namespace fluxcore
