#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fluxcore::data {

// Of tokens and targets as they are handed out.
enum class OutType : std::uint8_t { u8, u16, u32, i32, i64 };

std::size_t size_of(OutType type) noexcept;
std::uint64_t ids_of(OutType type) noexcept;  // how many token ids it can hold
std::string_view name_of(OutType type) noexcept;
// Throws std::invalid_argument that lists the names, for another name.
OutType out_type_from_name(std::string_view name);

}  // namespace fluxcore::data
