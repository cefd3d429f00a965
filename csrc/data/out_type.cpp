#include "data/out_type.hpp"

#include <array>
#include <stdexcept>
#include <string>

namespace fluxcore::data {
namespace {

struct OutTypeInfo {
  std::string_view name;
  std::size_t size;
  std::uint64_t ids;
};

constexpr std::array<OutTypeInfo, 5> kOutTypes = {{
    {.name = "uint8", .size = 1, .ids = std::uint64_t{1} << 8},
    {.name = "uint16", .size = 2, .ids = std::uint64_t{1} << 16},
    {.name = "uint32", .size = 4, .ids = std::uint64_t{1} << 32},
    {.name = "int32", .size = 4, .ids = std::uint64_t{1} << 31},
    {.name = "int64", .size = 8, .ids = std::uint64_t{1} << 63},
}};

const OutTypeInfo& info(OutType type) { return kOutTypes[static_cast<std::size_t>(type)]; }

}  // namespace

std::size_t size_of(OutType type) noexcept { return info(type).size; }
std::uint64_t ids_of(OutType type) noexcept { return info(type).ids; }
std::string_view name_of(OutType type) noexcept { return info(type).name; }

OutType out_type_from_name(std::string_view name) {
  for (std::size_t t = 0; t < kOutTypes.size(); ++t) {
    if (kOutTypes[t].name == name) return static_cast<OutType>(t);
  }
  throw std::invalid_argument("`out` must be one of uint8, uint16, uint32, int32, int64, got `" + std::string(name) +
                              "`");
}

}  // namespace fluxcore::data
