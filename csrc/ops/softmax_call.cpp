#include "ops/softmax_call.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace fluxcore {
namespace {

void require(bool holds, const char* what, std::int64_t got) {
  if (!holds) throw std::invalid_argument(std::string(what) + ", got " + std::to_string(got));
}

}  // namespace

const SoftmaxKernels& softmax_kernels(Isa isa, DType dtype) {
  if (std::ranges::find(available_isas(), isa) == available_isas().end()) {
    throw std::invalid_argument("`isa` must be available here, got `" + std::string(isa_name(isa)) +
                                "`; the widest is `" + std::string(isa_name(available_isas().back())) + "`");
  }
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::softmax_kernels(dtype);
  if (isa == Isa::avx2) return avx2::softmax_kernels(dtype);
#endif
  return portable::softmax_kernels(dtype);
}

void check_softmax_stats(const SoftmaxStatsCall& call) {
  require(call.rows >= 0, "`rows` must be >= 0", call.rows);
  require(call.classes >= 1 && call.classes <= std::numeric_limits<std::int32_t>::max(),
          "`classes` must be within [1, 2^31)", call.classes);
  require(call.outputs < 1U << kSoftmaxStatsOutputs, "`outputs` must have no bit beyond the seventh", call.outputs);
  require(call.top_k >= 0 && call.top_k <= std::min<std::int64_t>(call.classes, kMaxTopK),
          "`top_k` must be within [0, min(V, 64)]", call.top_k);
  require((call.outputs & kTopKMass) == 0 || call.top_k > 0, "`top_k` must be >= 1 for top_k_mass", call.top_k);
  require((call.outputs & kLogprob) == 0 || call.target != nullptr, "`target` must be given for logprob", 0);
  if (!(call.transform.temperature > 0.0) || !(call.transform.softcap >= 0.0)) {
    throw std::invalid_argument("`temperature` must be > 0 and `softcap` >= 0, got " +
                                std::to_string(call.transform.temperature) + " and " +
                                std::to_string(call.transform.softcap));
  }
}

std::int64_t softmax_row_grain(const SoftmaxStatsCall& call) {
  constexpr std::int64_t kElements = 32768;
  const std::int64_t even = call.rows / (static_cast<std::int64_t>(call.threads) * 16);
  return std::max(even, kElements / call.classes + 1);
}

}  // namespace fluxcore
