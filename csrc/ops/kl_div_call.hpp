#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/kl_div.hpp"
#include "ops/kl_div_kernels.hpp"

// What the forward and the backward pass of kl_div share.
namespace fluxcore {

// A row of KlDivResults::state. log(p/r) of a class is (x - v) / temperature - pivot - shift; `centre` is what the
// gradient subtracts from it (policy_ref: KL(p || r)) or from log(p/M) (jsd: KL(p || M)).
struct KlDivState {
  double m = 0.0;  // max x / temperature
  double s = 0.0;  // sum e^(x / temperature - m) over all but the argmax
  double pivot = 0.0;
  double shift = 0.0;
  double centre = 0.0;
};
inline constexpr int kKlDivStates = 5;

// Throws std::invalid_argument.
void check_kl_div(const KlDivCall& call);

// Throws std::invalid_argument if this build or this processor has no `isa`.
const KlDivKernels& kl_div_kernels(Isa isa, DType dtype);

// Rows that one thread takes at a time.
std::int64_t kl_div_row_grain(const KlDivCall& call);

// values[i] of the type that results for `dtype` have.
inline double kl_div_value(const void* values, DType dtype, std::int64_t i) {
  return dtype == DType::float64 ? static_cast<const double*>(values)[i]
                                 : static_cast<double>(static_cast<const float*>(values)[i]);
}

inline double kl_div_weight(const KlDivCall& call, std::int64_t row) {
  return call.token_weight == nullptr ? 1.0 : kl_div_value(call.token_weight, call.dtype, row);
}

inline const void* kl_div_row(const void* rows, DType dtype, std::int64_t row, std::int64_t stride) {
  return static_cast<const std::byte*>(rows) +
         static_cast<std::ptrdiff_t>(row * stride) * static_cast<std::ptrdiff_t>(dtype_size(dtype));
}

}  // namespace fluxcore
