#include "common/parallel.hpp"
#include "ops/softmax_call.hpp"
#include "ops/softmax_row.hpp"

namespace fluxcore {
namespace {

template <class C>
void store_row(const SoftmaxStatsCall& call, const SoftmaxStatsResults& results, std::int64_t row,
               const SoftmaxRowResult& result) {
  store_softmax_stats<C>(call, result, row, results.stats);
  C* state = static_cast<C*>(results.state) + row;
  for (int i = 0; i < 6; ++i) state[i * call.rows] = static_cast<C>(result.state[i]);
  results.argmax[row] = result.argmax;
}

}  // namespace

void softmax_stats_fwd(const SoftmaxStatsCall& call, const SoftmaxStatsResults& results) {
  check_softmax_stats(call);
  const SoftmaxKernels& kernels = softmax_kernels(call.isa, call.dtype);
  const SoftmaxKernels::Scan scan_row = kernels.scan[moments_of(call)];
  parallel_for(call.rows, softmax_row_grain(call), call.threads, [&](std::int64_t begin, std::int64_t end) {
    RowScan scan;
    scan.keep = call.top_k > 0 ? call.top_k : 1;
    for (std::int64_t row = begin; row < end; ++row) {
      scan_row(softmax_row(call, row), call.classes, call.transform, scan);
      const SoftmaxRowResult result = softmax_row_result(call, kernels, row, scan);
      if (call.dtype == DType::float64) {
        store_row<double>(call, results, row, result);
      } else {
        store_row<float>(call, results, row, result);
      }
      store_top_index(call, scan, row, results.top_index);
    }
  });
}

}  // namespace fluxcore
