#pragma once

#include <cstddef>

namespace fluxcore {

// Asks the system to back memory that is about to be written for the first time by huge pages: each of the usual 4 KiB
// costs a fault, and together they can take longer than the computation of what is written. Only whole huge pages
// within the range are asked for, so it never takes more memory; where the system has none or refuses, nothing changes.
void prefer_huge_pages(void* begin, std::size_t bytes) noexcept;

}  // namespace fluxcore
