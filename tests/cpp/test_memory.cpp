#include <doctest.h>
#include <unistd.h>

#include <cstdint>

#include "common/memory.hpp"

TEST_CASE("files may take some of the machine's memory, and no more than all of it") {
  const auto pages = static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES));
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t bytes = fluxcore::memory_for_files();
  CHECK(bytes > 0);
  CHECK(bytes <= pages * page);
}
