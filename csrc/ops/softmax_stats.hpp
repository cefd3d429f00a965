#pragma once

#include <cstdint>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/softmax_kernels.hpp"

namespace fluxcore {

// Bits of SoftmaxStatsCall::outputs; statistics are stored in this order.
enum SoftmaxStatsOutput : unsigned {
  kLse = 1U << 0,              // log sum e^x
  kLogprob = 1U << 1,          // log p of the target
  kEntropy = 1U << 2,          // nats
  kVarentropy = 1U << 3,       // variance of -log p
  kMaxProb = 1U << 4,          // largest p
  kOneMinusMaxProb = 1U << 5,  // sum of all p but the largest
  kTopKMass = 1U << 6,         // sum of the top_k largest p
};
inline constexpr int kSoftmaxStatsOutputs = 7;

// N rows of V logits. Statistics and state are double for double logits, float for all others.
struct SoftmaxStatsCall {
  const void* x = nullptr;  // [N, V], the last dimension contiguous
  DType dtype = DType::float32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  std::int64_t row_stride = 0;           // elements
  const std::int64_t* target = nullptr;  // [N], needed for kLogprob; outside [0, V) the logprob is NaN
  unsigned outputs = 0;
  int top_k = 0;  // 1 to min(V, 64) for kTopKMass, else 0
  LogitTransform transform = {};
  int threads = 1;
  Isa isa = Isa::portable;
};

struct SoftmaxStatsResults {
  void* stats;           // [outputs set, N]
  std::int64_t* argmax;  // [N]; the first of equal ones, and the first NaN before all
  void* state;  // [6, N]: m = max x, and s, t, spread, x_y, r: sums over all but the argmax, target, sum over all
                // outside the top k (see RowScan); those that no output needs are 0
  std::int32_t* top_index;  // [N, top_k], by falling x, equal ones by index; unused without top_k
};

// A row that is all -inf has lse -inf and NaN elsewhere; one with +inf has lse +inf and NaN elsewhere; one with NaN has
// NaN. Results do not depend on the number of threads. Throws std::invalid_argument for a call that contradicts itself.
void softmax_stats_fwd(const SoftmaxStatsCall& call, const SoftmaxStatsResults& results);

struct SoftmaxStatsGrads {
  const void* grads;  // [outputs set, N], of the statistics
  const std::int64_t* argmax;
  const void* state;
  const std::int32_t* top_index;
  void* dx;  // [N, V] contiguous, of x's type; may be x itself
};

// dx = gradient of sum(grads * stats) by x, with argmax, state and top_index from the forward pass. It is 0 at a logit
// of -inf and in a row whose grads are all 0.
void softmax_stats_bwd(const SoftmaxStatsCall& call, const SoftmaxStatsGrads& grads);

}  // namespace fluxcore
