#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ops/softmax_stats.hpp"

// What the forward and the backward pass of softmax_stats share.
namespace fluxcore {

// Throws std::invalid_argument.
void check_softmax_stats(const SoftmaxStatsCall& call);

// Rows that one thread takes at a time: enough elements to be worth a hand-over, few enough to even out.
std::int64_t softmax_row_grain(const SoftmaxStatsCall& call);

inline const void* softmax_row(const SoftmaxStatsCall& call, std::int64_t row) {
  const auto offset =
      static_cast<std::ptrdiff_t>(row * call.row_stride) * static_cast<std::ptrdiff_t>(dtype_size(call.dtype));
  return static_cast<const std::byte*>(call.x) + offset;
}

inline double capped_logit(double logit, const LogitTransform& transform) {
  return transform.softcap > 0.0 ? transform.softcap * std::tanh(logit / transform.softcap) : logit;
}

inline bool target_is_class(const SoftmaxStatsCall& call, std::int64_t row) {
  return call.target != nullptr && call.target[row] >= 0 && call.target[row] < call.classes;
}

}  // namespace fluxcore
