#include "ops/gae.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "common/parallel.hpp"
#include "ops/gae_kernels.hpp"

namespace fluxcore {
namespace {

const GaeKernels& kernels_for(Isa isa, DType dtype) {
  if (std::ranges::find(available_isas(), isa) == available_isas().end()) {
    throw std::invalid_argument("`isa` must be available here, got `" + std::string(isa_name(isa)) + "`");
  }
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::gae_kernels(dtype);
  if (isa == Isa::avx2) return avx2::gae_kernels(dtype);
#endif
  return portable::gae_kernels(dtype);
}

void check_size(const char* name, std::int64_t size) {
  if (size >= 0) return;
  throw std::invalid_argument(std::string("`") + name + "` must be >= 0, got " + std::to_string(size));
}

}  // namespace

void gae(const GaeCall& call, const GaeResults& results) {
  check_size("outer", call.outer);
  check_size("steps", call.steps);
  check_size("inner", call.inner);
  const GaeKernels& kernels = kernels_for(call.isa, call.dtype);
  // A slab is cut into blocks of columns, the last of which may be narrow; where time is the inner dimension, rows of
  // neighbouring slabs stand side by side.
  const bool time_last = call.inner == 1;
  const std::int64_t slabs = time_last ? 1 : call.outer;
  const std::int64_t width = time_last ? call.outer : call.inner;
  const std::int64_t block = time_last ? kernels.lanes : kGaeColumns;
  const std::int64_t blocks = (width + block - 1) / block;
  if (call.steps == 0) return;
  constexpr std::int64_t kElements = 16384;
  const std::int64_t grain = kElements / (block * call.steps) + 1;
  parallel_for(slabs * blocks, grain, call.threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t from = task % blocks * block;
      const std::int64_t first = task / blocks * width + from;
      const std::int64_t count = std::min(block, width - from);
      const std::int64_t whole = time_last ? 0 : count - count % kernels.lanes;
      if (whole > 0) kernels.columns(call, results, first, whole);
      for (std::int64_t done = whole; done < count; done += kernels.lanes) {
        kernels.rows(call, results, first + done, std::min(kernels.lanes, count - done));
      }
    }
  });
}

}  // namespace fluxcore
