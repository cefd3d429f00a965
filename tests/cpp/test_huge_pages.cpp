#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "common/huge_pages.hpp"
#include "doctest.h"

using fluxcore::prefer_huge_pages;

namespace {

// Whether the mapping that holds `address` is marked for huge pages, as Linux says.
bool marked(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    const std::size_t dash = line.find('-');
    if (dash != std::string::npos && line.find_first_not_of("0123456789abcdef") == dash) {
      const std::uintptr_t begin = std::stoull(line.substr(0, dash), nullptr, 16);
      const std::uintptr_t end = std::stoull(line.substr(dash + 1), nullptr, 16);
      inside = begin <= wanted && wanted < end;
    }
    if (inside && line.starts_with("VmFlags:")) return line.find(" hg") != std::string::npos;
  }
  return false;
}

}  // namespace

TEST_CASE("memory keeps what it holds, and its middle is marked where there are huge pages") {
  std::vector<unsigned char> memory(std::size_t{9} << 20, 7);
  prefer_huge_pages(memory.data() + 5, memory.size() - 5);
  CHECK(std::ranges::all_of(memory, [](unsigned char byte) { return byte == 7; }));
  const bool has_huge_pages = std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled").good();
  CHECK(marked(memory.data() + (std::size_t{4} << 20)) == has_huge_pages);
}

TEST_CASE("a range without a whole huge page is left alone") {
  std::vector<unsigned char> memory(std::size_t{3} << 20);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  unsigned char* aligned = memory.data() + (kHugePage - address % kHugePage) % kHugePage;
  prefer_huge_pages(aligned + 1, kHugePage - 1);
  prefer_huge_pages(nullptr, 0);
  CHECK_FALSE(marked(aligned));
}
