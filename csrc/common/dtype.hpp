#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fluxcore {

// Element types that the CPU kernels read and write.
enum class DType { float32, bfloat16, float16, float64 };

// The bits of a 16-bit number; arithmetic happens after widening to float.
struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

// What sums over a type are kept in: float for all but double.
template <class T>
struct ComputeTypeOf {
  using type = float;
};
template <>
struct ComputeTypeOf<double> {
  using type = double;
};
template <class T>
using ComputeType = typename ComputeTypeOf<T>::type;

std::size_t dtype_size(DType dtype) noexcept;

// Throws std::invalid_argument that lists the names, for another name.
DType dtype_from_name(std::string_view name);

}  // namespace fluxcore
