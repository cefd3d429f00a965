#include "ops/gae.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "common/huge_pages.hpp"
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

// As wide as leaves every thread a block, in whole cache lines.
std::int64_t columns_of_block(std::int64_t slabs, std::int64_t width, int threads) {
  const std::int64_t blocks = (threads + slabs - 1) / std::max<std::int64_t>(slabs, 1);  // of a slab
  const std::int64_t lines = (width + blocks * kFewestGaeColumns - 1) / (blocks * kFewestGaeColumns);
  return std::clamp(lines * kFewestGaeColumns, kFewestGaeColumns, kGaeColumns);
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
  const std::int64_t block = time_last ? kernels.lanes : columns_of_block(slabs, width, call.threads);
  const std::int64_t blocks = (width + block - 1) / block;
  if (call.steps == 0) return;
  const std::size_t bytes = static_cast<std::size_t>(call.outer * call.steps * call.inner) *
                            (call.dtype == DType::float64 ? sizeof(double) : sizeof(float));
  prefer_huge_pages(results.advantages, bytes);
  prefer_huge_pages(results.returns, bytes);
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
