#include "ops/softmax_kernels.hpp"

#include "ops/softmax_scan.hpp"
#include "ops/softmax_sweep.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

template <class T, int Moments>
void scan_scaled(const void* row, std::int64_t classes, const LogitTransform& transform, RowScan& scan) {
  if (transform.temperature == 1.0) {
    scan_row<T, Moments, false>(row, classes, transform, scan);
  } else {
    scan_row<T, Moments, true>(row, classes, transform, scan);
  }
}

template <class T>
double read(const void* row, std::int64_t i) {
  return static_cast<double>(to_compute(static_cast<const T*>(row)[i]));
}

template <class T>
void write(void* row, std::int64_t i, double value) {
  from_compute(static_cast<ComputeType<T>>(value), static_cast<T*>(row) + i);
}

template <class T>
std::int64_t first_nan(const void* row, std::int64_t classes) {
  const T* x = static_cast<const T*>(row);
  for (std::int64_t i = 0; i < classes; ++i) {
    const auto value = to_compute(x[i]);
    if (value != value) return i;
  }
  return -1;
}

template <class T>
constexpr SoftmaxKernels kKernels = {
    .scan = {scan_scaled<T, 0>, scan_scaled<T, 1>, scan_scaled<T, 2>},
    .sweep = sweep_row<T>,
    .read = read<T>,
    .write = write<T>,
    .first_nan = first_nan<T>,
};

}  // namespace

const SoftmaxKernels& softmax_kernels(DType dtype) {
  return for_element_type(dtype, []<class T>() -> const SoftmaxKernels& { return kKernels<T>; });
}

}  // namespace fluxcore::FLUXCORE_ISA
