#pragma once

#include <cstdint>

#include "ops/softmax_call.hpp"

// From the scan of one row to its statistics, in double; for the forward passes of all ops on logits.
namespace fluxcore {

// `stats` in the order of SoftmaxStatsOutput, `state` in that of SoftmaxStatsResults::state.
struct SoftmaxRowResult {
  double stats[kSoftmaxStatsOutputs];
  double state[6];
  std::int64_t argmax;
  double inside;  // sum of e^z over the top k (without a top k: the argmax), which has z = 0
  double log_n;   // log of the sum of e^z, argmax included
  double z_y;     // x_y - m, exactly 0 at the argmax
};

// Which of SoftmaxKernels::scan the outputs need.
int moments_of(const SoftmaxStatsCall& call);

SoftmaxRowResult softmax_row_result(const SoftmaxStatsCall& call, const SoftmaxKernels& kernels, std::int64_t row,
                                    const RowScan& scan);

template <class C>
void store_softmax_stats(const SoftmaxStatsCall& call, const SoftmaxRowResult& result, std::int64_t row, void* stats) {
  C* stat = static_cast<C*>(stats) + row;
  for (int i = 0; i < kSoftmaxStatsOutputs; ++i) {
    if ((call.outputs >> i & 1U) == 0) continue;
    *stat = static_cast<C>(result.stats[i]);
    stat += call.rows;
  }
}

void store_top_index(const SoftmaxStatsCall& call, const RowScan& scan, std::int64_t row, std::int32_t* top_index);

}  // namespace fluxcore
