#include <cstdlib>
#include <stdexcept>

#include "common/cpu.hpp"
#include "doctest.h"

using fluxcore::Isa;

TEST_CASE("the portable set is always there and the list is ordered") {
  const auto& isas = fluxcore::available_isas();
  REQUIRE_FALSE(isas.empty());
  CHECK(isas.front() == Isa::portable);
  for (std::size_t i = 1; i < isas.size(); ++i) CHECK(isas[i - 1] < isas[i]);
}

TEST_CASE("names round-trip and an unknown one is refused") {
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    CHECK(fluxcore::isa_from_name(fluxcore::isa_name(isa)) == isa);
  }
  CHECK_THROWS_AS(fluxcore::isa_from_name("avx1024"), std::invalid_argument);
}

TEST_CASE("FLUXCORE_ISA narrows the choice") {
  setenv("FLUXCORE_ISA", "portable", 1);
  CHECK(fluxcore::best_isa() == Isa::portable);
  setenv("FLUXCORE_ISA", "nonsense", 1);
  CHECK_THROWS_AS(fluxcore::best_isa(), std::invalid_argument);
  unsetenv("FLUXCORE_ISA");
  CHECK(fluxcore::best_isa() == fluxcore::available_isas().back());
}
