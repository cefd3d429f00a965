#include <algorithm>
#include <cstring>

#include "common/huge_pages.hpp"
#include "common/parallel.hpp"
#include "ops/cross_entropy_gradient.hpp"

namespace fluxcore {
namespace {

CrossEntropyState load_state(const CrossEntropyCall& call, const void* state, std::int64_t row) {
  const auto field = [&](std::int64_t i) { return wide_at(state, call.logits.dtype, i * call.logits.rows + row); };
  return {.m = field(0),
          .s = field(1),
          .t = field(2),
          .x_y = field(3),
          .inside = field(4),
          .outside = field(5),
          .mass_rest = field(6)};
}

}  // namespace

void cross_entropy_bwd(const CrossEntropyCall& call, const CrossEntropyGrads& grads) {
  check_cross_entropy(call);
  const SoftmaxStatsCall& logits = call.logits;
  const CrossEntropyPass pass(call, load_totals(grads.totals, logits.dtype));
  const std::size_t row_bytes = gradient_row_bytes(call);
  prefer_huge_pages(grads.gradient, static_cast<std::size_t>(logits.rows) * row_bytes);
  parallel_for(logits.rows, softmax_row_grain(logits), logits.threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      void* gradient = static_cast<std::byte*>(grads.gradient) + static_cast<std::size_t>(row) * row_bytes;
      const double upstream = wide_at(grads.upstream, logits.dtype, row * grads.upstream_stride);
      const CrossEntropyRow target(pass, row);
      if (target.dead() || upstream == 0.0) {
        std::memset(gradient, 0, row_bytes);
        continue;
      }
      const CrossEntropyState state = load_state(call, grads.state, row);
      CrossEntropyGradient(pass, target, state, row, grads.argmax[row], grads.top_index, upstream).write(gradient);
    }
  });
}

void scale_in_place(void* values, DType dtype, std::int64_t count, double scale, int threads, Isa isa) {
  if (scale == 1.0) return;
  const CrossEntropyKernels& kernels = cross_entropy_kernels(isa, dtype);
  constexpr std::int64_t kLeast = 65536;
  const std::int64_t grain = std::max(kLeast, count / (static_cast<std::int64_t>(threads) * 16));
  parallel_for(count, grain, threads, [&](std::int64_t begin, std::int64_t end) {
    void* from = static_cast<std::byte*>(values) + static_cast<std::size_t>(begin) * dtype_size(dtype);
    if (scale == 0.0) {
      std::memset(from, 0, static_cast<std::size_t>(end - begin) * dtype_size(dtype));
    } else {
      kernels.scale(from, end - begin, scale);
    }
  });
}

}  // namespace fluxcore
