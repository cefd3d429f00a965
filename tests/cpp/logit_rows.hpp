#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "ops/softmax_kernels.hpp"

// Rows of logits in any type, for tests against definitions in long double.
namespace fluxcore::test {

using Real = long double;
using Matrix = std::vector<std::vector<double>>;
inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Numbers that the type holds, through the kernels' own conversions; rows are `gap` elements apart.
struct Rows {
  Rows(DType of, const Matrix& rows, std::int64_t gap)
      : dtype(of),
        n(std::ssize(rows)),
        classes(std::ssize(rows[0])),
        stride(classes + gap),
        bytes(static_cast<std::size_t>(n * stride) * dtype_size(of)) {
    for (std::int64_t row = 0; row < n; ++row) {
      for (std::int64_t i = 0; i < classes; ++i)
        kernels().write(at(row), i, rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(i)]);
    }
  }
  const SoftmaxKernels& kernels() const { return softmax_kernels(Isa::portable, dtype); }
  void* at(std::int64_t row) { return bytes.data() + static_cast<std::size_t>(row * stride) * dtype_size(dtype); }
  double value(std::int64_t row, std::int64_t i) { return kernels().read(at(row), i); }

  DType dtype;
  std::int64_t n;
  std::int64_t classes;
  std::int64_t stride;
  std::vector<std::byte> bytes;
};

inline Matrix random_rows(std::int64_t n, std::int64_t classes, double mean, double deviation, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(mean, deviation);
  Matrix rows(static_cast<std::size_t>(n), std::vector<double>(static_cast<std::size_t>(classes)));
  for (auto& row : rows) std::ranges::generate(row, [&] { return normal(random); });
  return rows;
}

}  // namespace fluxcore::test
