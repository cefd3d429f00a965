#include "common/huge_pages.hpp"

#if defined(__linux__)
#include <sys/mman.h>

#include <cstdint>
#endif

namespace fluxcore {

void prefer_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t kHugePage = std::size_t{2} << 20;  // of x86-64, and of 64-bit Arm with pages of 4 KiB
  const std::size_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(begin) % kHugePage) % kHugePage;
  if (bytes < before + kHugePage) return;
  const std::size_t whole = (bytes - before) / kHugePage * kHugePage;
  // Advice that is refused, as by a kernel built without huge pages, is no failure.
  static_cast<void>(madvise(static_cast<std::byte*>(begin) + before, whole, MADV_HUGEPAGE));
#endif
}

}  // namespace fluxcore
