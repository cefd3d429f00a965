#include "common/dtype.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

namespace fluxcore {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"float32", "bfloat16", "float16", "float64"};
constexpr std::array<std::size_t, 4> kSizes = {4, 2, 2, 8};

}  // namespace

std::size_t dtype_size(DType dtype) noexcept { return kSizes.at(static_cast<std::size_t>(dtype)); }

DType dtype_from_name(std::string_view name) {
  const auto* found = std::ranges::find(kNames, name);
  if (found == kNames.end()) {
    throw std::invalid_argument("`dtype` must be one of `float32`, `bfloat16`, `float16`, `float64`, got `" +
                                std::string(name) + "`");
  }
  return static_cast<DType>(found - kNames.begin());
}

}  // namespace fluxcore
