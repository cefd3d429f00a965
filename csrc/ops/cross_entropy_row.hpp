#pragma once

#include <cstdint>

#include "ops/cross_entropy.hpp"
#include "ops/cross_entropy_kernels.hpp"
#include "ops/softmax_call.hpp"

// What surrounds the loops over one row, in double: from targets and sums to the row's loss. Names are those of
// fluxcore/reference/cross_entropy.py.
namespace fluxcore {

// Divisors of loss, z-loss and penalty, and the sum of the class weights.
struct CrossEntropyTotals {
  double loss;
  double z_loss;
  double penalty;
  double weights;
};

// One element of a [..] wide tensor.
double wide_at(const void* values, DType dtype, std::int64_t i);

// The gradient is contiguous.
inline std::size_t gradient_row_bytes(const CrossEntropyCall& call) {
  return static_cast<std::size_t>(call.logits.classes) * dtype_size(call.logits.dtype);
}

// Throws std::invalid_argument.
void check_cross_entropy(const CrossEntropyCall& call);

// Not for Reduction::given.
CrossEntropyTotals cross_entropy_totals(const CrossEntropyCall& call);

// From [4] wide.
CrossEntropyTotals load_totals(const void* totals, DType dtype);

// What of a call is the same for all rows.
struct CrossEntropyPass {
  CrossEntropyPass(const CrossEntropyCall& of, const CrossEntropyTotals& with);

  const CrossEntropyCall& call;
  CrossEntropyTotals totals;
  SoftmaxStatsCall scanned;  // the logits, with all outputs that the loss needs
  const SoftmaxKernels& softmax;
  const CrossEntropyKernels& kernels;
};

// Saved from forward to backward. StableMax: m is the sigma of the class that is kept out of the sums (the target;
// with probabilities the argmax), s the sum of the others.
struct CrossEntropyState {
  double m = 0.0;  // max x
  double s = 0.0;  // sum of e^(x - m) over all but the argmax
  double t = 0.0;  // sum of (x - m) e^(x - m) over the same
  double x_y = 0.0;
  double inside = 0.0;     // sums of e^(x - m) over the top k
  double outside = 0.0;    //   and over the others
  double mass_rest = 0.0;  // probabilities: sum of c_i over all but the argmax
};
inline constexpr int kCrossEntropyStates = 7;

// -log p of the class kept out (with probabilities or softmax) or of the target, and that of a class with z = 0.
struct Surprise {
  double own;
  double level;
};

// One row's target and weights.
class CrossEntropyRow {
 public:
  CrossEntropyRow(const CrossEntropyPass& pass, std::int64_t row);

  [[nodiscard]] bool dead() const { return dead_; }        // gives 0 whatever its logits
  [[nodiscard]] bool invalid() const { return invalid_; }  // its target is no class
  [[nodiscard]] std::int64_t target() const { return target_; }
  [[nodiscard]] double token_weight() const { return token_weight_; }
  [[nodiscard]] double target_weight() const { return target_weight_; }
  // coef * mask / divisor, 0 if that is not defined.
  [[nodiscard]] double penalty_factor() const;

  // Whether more than the target has a share, so that ClassShares matter: smoothing or probabilities.
  [[nodiscard]] bool has_shares() const;
  // With probabilities the c_i; with classes the weights alone, which smoothing() multiplies.
  [[nodiscard]] ClassShares shares() const;
  [[nodiscard]] double smoothing() const;            // eps / V
  [[nodiscard]] double share(std::int64_t i) const;  // of shares()

  // The loss of the row. `moment` is that of the shares' sums.
  [[nodiscard]] double value(const CrossEntropyState& state, const Surprise& surprise, double moment,
                             std::int64_t argmax) const;

 private:
  [[nodiscard]] double penalty(const CrossEntropyState& state) const;

  const CrossEntropyPass& pass_;
  std::int64_t row_;
  std::int64_t target_ = -1;  // a class, or -1 with probabilities
  bool dead_ = false;
  bool invalid_ = false;
  double token_weight_ = 1.0;
  double target_weight_ = 1.0;
};

}  // namespace fluxcore
