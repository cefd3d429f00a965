#include <cmath>
#include <cstring>

#include "common/parallel.hpp"
#include "ops/kl_div_call.hpp"

namespace fluxcore {
namespace {

KlDivState load_state(const KlDivCall& call, const void* state, std::int64_t row) {
  const auto field = [&](std::int64_t i) { return kl_div_value(state, call.dtype, i * call.rows + row); };
  return {.m = field(0), .s = field(1), .pivot = field(2), .shift = field(3), .centre = field(4)};
}

}  // namespace

void kl_div_bwd(const KlDivCall& call, const KlDivGrads& grads) {
  check_kl_div(call);
  const KlDivKernels& kernels = kl_div_kernels(call.isa, call.dtype);
  const KlDivKernels::Sweep sweep = kernels.sweep[static_cast<int>(call.direction)];
  const std::size_t row_bytes = static_cast<std::size_t>(call.classes) * dtype_size(call.dtype);
  const double total = kl_div_value(grads.totals, call.dtype, 0);
  const double share = call.direction == Direction::jsd ? call.beta : 1.0;
  parallel_for(call.rows, kl_div_row_grain(call), call.threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      void* gradient = static_cast<std::byte*>(grads.gradient) + static_cast<std::size_t>(row) * row_bytes;
      const double upstream = kl_div_value(grads.upstream, call.dtype, row * grads.upstream_stride);
      const double weight = kl_div_weight(call, row);
      if (upstream == 0.0 || weight == 0.0) {
        std::memset(gradient, 0, row_bytes);
        continue;
      }
      const KlDivState state = load_state(call, grads.state, row);
      sweep(kl_div_row(call.x, call.dtype, row, call.row_stride),
            kl_div_row(call.ref, call.dtype, row, call.ref_stride), gradient, call.classes, call.temperature,
            {.scale = upstream * weight * share / (total * call.temperature),
             .lse = state.m + std::log1p(state.s),
             .pivot = state.pivot,
             .shift = state.shift,
             .centre = call.direction == Direction::policy_ref ? state.shift + state.centre : state.centre,
             .beta = call.beta});
    }
  });
}

}  // namespace fluxcore
