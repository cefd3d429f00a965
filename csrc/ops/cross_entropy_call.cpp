#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "ops/cross_entropy_row.hpp"

namespace fluxcore {
namespace {

// The place of `name` among `names`.
template <class Enum, std::size_t Size>
Enum enum_from_name(const char* argument, const std::array<std::string_view, Size>& names, std::string_view name) {
  const auto* const found = std::ranges::find(names, name);
  if (found != names.end()) return static_cast<Enum>(found - names.begin());
  std::string message = std::string("`") + argument + "` must be one of";
  for (const std::string_view known : names) message += " `" + std::string(known) + "`";
  throw std::invalid_argument(message + ", got `" + std::string(name) + "`");
}

// In several sums, so that no addition waits for the one before it.
double sum_of(const void* values, DType dtype, std::int64_t count) {
  std::array<double, 8> sums = {};
  for (std::int64_t i = 0; i < count; ++i) sums[static_cast<std::size_t>(i % 8)] += wide_at(values, dtype, i);
  double sum = 0.0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

Link link_from_name(std::string_view name) {
  return enum_from_name<Link>("link", std::to_array<std::string_view>({"softmax", "stablemax"}), name);
}

Reduction reduction_from_name(std::string_view name) {
  return enum_from_name<Reduction>(
      "reduction", std::to_array<std::string_view>({"none", "mean", "sum", "token_mean", "given"}), name);
}

Penalty penalty_from_name(std::string_view name) {
  return enum_from_name<Penalty>(
      "penalty", std::to_array<std::string_view>({"", "non_max_sum", "neg_entropy", "neg_max_prob", "top_k_mass"}),
      name);
}

const CrossEntropyKernels& cross_entropy_kernels(Isa isa, DType dtype) {
  softmax_kernels(isa, dtype);  // throws where it is missing
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::cross_entropy_kernels(dtype);
  if (isa == Isa::avx2) return avx2::cross_entropy_kernels(dtype);
#endif
  return portable::cross_entropy_kernels(dtype);
}

void check_cross_entropy(const CrossEntropyCall& call) {
  check_softmax_stats(call.logits);
  if ((call.logits.target == nullptr) == (call.probabilities == nullptr) && call.logits.rows > 0) {
    throw std::invalid_argument("`target` must be classes or probabilities, got both or neither");
  }
  if ((call.penalty == Penalty::top_k_mass) != (call.logits.top_k > 0)) {
    throw std::invalid_argument("`top_k` must be >= 1 for the penalty top_k_mass, else 0, got " +
                                std::to_string(call.logits.top_k));
  }
  const LogitTransform& transform = call.logits.transform;
  if (call.link == Link::stablemax &&
      (call.penalty != Penalty::none || call.lse_square_scale != 0.0 || call.logits.outputs != 0 ||
       call.argmax_wanted || transform.temperature != 1.0 || transform.softcap != 0.0)) {
    throw std::invalid_argument(
        "`link` = `stablemax` must go without penalty, z-loss, statistics, temperature and softcap, got one of them");
  }
}

CrossEntropyTotals load_totals(const void* totals, DType dtype) {
  const auto field = [&](std::int64_t i) { return wide_at(totals, dtype, i); };
  return {.loss = field(0), .z_loss = field(1), .penalty = field(2), .weights = field(3)};
}

CrossEntropyTotals cross_entropy_totals(const CrossEntropyCall& call) {
  const DType dtype = call.logits.dtype;
  const auto or_one = [dtype](const void* values, std::int64_t i) {
    return values != nullptr ? wide_at(values, dtype, i) : 1.0;
  };
  CrossEntropyTotals totals = {.loss = 1.0, .z_loss = 1.0, .penalty = 1.0, .weights = 0.0};
  totals.weights = call.weight != nullptr ? sum_of(call.weight, dtype, call.logits.classes)
                                          : static_cast<double>(call.logits.classes);
  if (call.reduction != Reduction::mean && call.reduction != Reduction::token_mean) return totals;
  double counted = 0.0;
  double by_class = 0.0;
  double by_token = 0.0;
  double by_penalty = 0.0;
  for (std::int64_t row = 0; row < call.logits.rows; ++row) {
    double class_weight = 1.0;
    if (call.probabilities == nullptr) {
      const std::int64_t y = call.logits.target[row];
      if (y == call.ignore_index || !target_is_class(call.logits, row)) continue;
      class_weight = or_one(call.weight, y);
    }
    const double token_weight = or_one(call.token_weight, row);
    counted += 1.0;
    by_class += class_weight;
    by_token += token_weight;
    by_penalty += token_weight * or_one(call.penalty_mask, row);
  }
  const bool by_tokens = call.reduction == Reduction::token_mean;
  totals.loss = by_tokens ? by_token : by_class;
  totals.z_loss = by_tokens ? by_token : counted;
  totals.penalty = by_penalty;
  return totals;
}

}  // namespace fluxcore
