#pragma once

#include <cstdint>
#include <string_view>

#include "common/cpu.hpp"
#include "common/dtype.hpp"
#include "ops/cross_entropy.hpp"

// Divergence of N rows of V logits from N rows of reference logits. The formulas are those of
// fluxcore/reference/kl_div.py; `wide` is double for double logits, float for all others.
namespace fluxcore {

enum class Direction { policy_ref, ref_policy, jsd };

// Throws std::invalid_argument that lists the names, for another name.
Direction direction_from_name(std::string_view name);

struct KlDivCall {
  const void* x = nullptr;    // [N, V] the policy's, the last dimension contiguous
  const void* ref = nullptr;  // [N, V] the reference's, of the same type, the last dimension contiguous
  DType dtype = DType::float32;
  std::int64_t rows = 0;
  std::int64_t classes = 0;
  std::int64_t row_stride = 0;         // elements
  std::int64_t ref_stride = 0;         // elements
  const void* token_weight = nullptr;  // [N] wide, or none
  Direction direction = Direction::policy_ref;
  double beta = 0.5;  // within (0, 1)
  Reduction reduction = Reduction::mean;
  double temperature = 1.0;
  int threads = 1;
  Isa isa = Isa::portable;
};

struct KlDivResults {
  void* loss;    // [N] wide for Reduction::none, else one
  void* state;   // [5, N] wide: m and s of the policy, pivot, shift, centre (see KlDivState)
  void* totals;  // one wide: what the reduction divides by
};

// A row whose token weight is 0 has loss 0 and is not read. A class that only the second distribution excludes makes
// the divergence of the first from it inf; NaN, +inf or nothing but -inf make it NaN. Results do not depend on the
// number of threads. Throws std::invalid_argument for a call that contradicts itself.
void kl_div_fwd(const KlDivCall& call, const KlDivResults& results);

struct KlDivGrads {
  const void* upstream;          // wide, of the loss
  std::int64_t upstream_stride;  // 0: one for all rows, 1: one a row
  const void* state;             // these two from the forward pass
  const void* totals;
  void* gradient;  // [N, V] contiguous, of x's type
};

// The gradient of sum(upstream * loss) by x. It is 0 at a logit of -inf and in a row whose upstream is 0.
void kl_div_bwd(const KlDivCall& call, const KlDivGrads& grads);

}  // namespace fluxcore
