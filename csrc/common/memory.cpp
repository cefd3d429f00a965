#include "common/memory.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace fluxcore {
namespace {

std::optional<std::uint64_t> available() {
  std::ifstream file("/proc/meminfo");
  for (std::string name; file >> name;) {
    std::uint64_t kilobytes = 0;
    if (name == "MemAvailable:" && file >> kilobytes) return kilobytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

// The least limit of a control group and of those that it is in. Where there is none, version 2 writes a word, and
// version 1 a very large number.
std::uint64_t limit_of(const std::filesystem::path& root, const std::filesystem::path& group, const char* name) {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  for (std::filesystem::path at = group.relative_path();; at = at.parent_path()) {
    std::ifstream file(root / at / name);
    std::uint64_t bytes = 0;
    if (file >> bytes) least = std::min(least, bytes);
    if (at.empty()) return least;
  }
}

std::uint64_t group_limit() {
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // number:controllers:path
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (controllers.empty()) least = std::min(least, limit_of("/sys/fs/cgroup", group, "memory.max"));
    if (controllers == "memory") {
      least = std::min(least, limit_of("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"));
    }
  }
  return least;
}

}  // namespace

std::uint64_t memory_for_files() { return std::min(available().value_or(0), group_limit()); }

}  // namespace fluxcore
