#include "ops/kl_div_call.hpp"

#include <limits>
#include <stdexcept>
#include <string>

#include "ops/softmax_call.hpp"

namespace fluxcore {
namespace {

void require(bool holds, const char* what, const std::string& got) {
  if (!holds) throw std::invalid_argument(std::string(what) + ", got " + got);
}

}  // namespace

Direction direction_from_name(std::string_view name) {
  if (name == "policy_ref") return Direction::policy_ref;
  if (name == "ref_policy") return Direction::ref_policy;
  require(name == "jsd", "`direction` must be one of `policy_ref` `ref_policy` `jsd`", "`" + std::string(name) + "`");
  return Direction::jsd;
}

void check_kl_div(const KlDivCall& call) {
  require(call.rows >= 0, "`rows` must be >= 0", std::to_string(call.rows));
  require(call.classes >= 1 && call.classes <= std::numeric_limits<std::int32_t>::max(),
          "`classes` must be within [1, 2^31)", std::to_string(call.classes));
  require(call.beta > 0.0 && call.beta < 1.0, "`beta` must be within (0, 1)", std::to_string(call.beta));
  require(call.reduction != Reduction::given, "`reduction` must be `none`, `mean`, `sum` or `token_mean`", "`given`");
  require(call.temperature > 0.0, "`temperature` must be > 0", std::to_string(call.temperature));
}

const KlDivKernels& kl_div_kernels(Isa isa, DType dtype) {
  softmax_kernels(isa, dtype);  // throws where it is missing
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kl_div_kernels(dtype);
  if (isa == Isa::avx2) return avx2::kl_div_kernels(dtype);
#endif
  return portable::kl_div_kernels(dtype);
}

std::int64_t kl_div_row_grain(const KlDivCall& call) {
  return softmax_row_grain({.rows = call.rows, .classes = call.classes, .threads = call.threads});
}

}  // namespace fluxcore
