#include <algorithm>
#include <random>
#include <vector>

#include "doctest.h"
#include "ops/prune.hpp"
#include "ops/prune_kernels.hpp"

using namespace fluxcore;

namespace {

// Every pattern of bits has its chance, infinities and NaNs too, and half of them are close to each other.
std::vector<std::uint16_t> any_bits(std::size_t count) {
  std::mt19937 random(5);
  std::uniform_int_distribution<int> all(0, 0xffff);
  std::uniform_int_distribution<int> few(0x3f00, 0x3f40);
  std::vector<std::uint16_t> x(count);
  for (std::size_t i = 0; i < count; ++i) x[i] = static_cast<std::uint16_t>(i % 2 == 0 ? all(random) : few(random));
  return x;
}

}  // namespace

TEST_CASE("magnitudes of bfloat16 are surveyed and chosen as their keys are") {
  const std::size_t count = 2048;
  std::vector<std::uint16_t> weights = any_bits(count);
  std::vector<std::uint8_t> mask(count);
  for (std::size_t i = 0; i < count; ++i) mask[i] = i % 3 == 0 ? 0 : 1;
  for (const Isa isa : available_isas()) {
    const PruneKernels& kernels = prune_kernels(isa);
    for (std::uint8_t* bits : {static_cast<std::uint8_t*>(nullptr), mask.data()}) {
      PruneTensor tensor;
      tensor.weight = weights.data();
      tensor.dtype = DType::bfloat16;
      tensor.mask = bits;
      for (const std::int64_t begin : {std::int64_t{0}, std::int64_t{5}}) {
        for (const std::int64_t n : {std::int64_t{2040}, std::int64_t{64}, std::int64_t{61}, std::int64_t{0}}) {
          std::vector<std::uint32_t> keys(count), inside(count + 16), same(count + 16);
          kernels.keys(tensor, KeyKind::magnitude, 0, begin, n, keys.data());
          for (const std::uint32_t low : {0U, 1U, 0x3f100000U, 0x3f10ffffU, kMaxKey}) {
            for (const std::uint32_t high : {low, low | 0x200000U, kMaxKey}) {
              const PruneSurvey found = kernels.survey(keys.data(), n, low, high, inside.data());
              const PruneSurvey again = kernels.survey_bfloat16(tensor, begin, n, low, high, same.data());
              CHECK(found.candidates == again.candidates);
              CHECK(found.below == again.below);
              REQUIRE(found.inside == again.inside);
              CHECK(std::equal(inside.begin(), inside.begin() + found.inside, same.begin()));
            }
          }
          for (const std::uint32_t bound : {0U, 1U, 0x3f100000U, 0x3f100001U, 0x7f810000U, kMaxKey, kMaxKey + 1}) {
            std::vector<std::uint8_t> chosen(count, 9), flags(count, 9);
            CHECK(kernels.below(keys.data(), n, bound, chosen.data()) ==
                  kernels.below_bfloat16(tensor, begin, n, bound, flags.data()));
            CHECK(chosen == flags);
          }
        }
      }
    }
  }
}
