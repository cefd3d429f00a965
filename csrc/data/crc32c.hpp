#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fluxcore::data {

// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), initial value and final xor 0xFFFFFFFF: iSCSI's, RFC 3720.
// To go on after earlier bytes pass their result as `before`. Uses the processor's instruction where it has one; that
// leaves memory idle, so that meanwhile the 4 KiB at `upcoming` can come into the cache. They are not read: any address
// will do.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0,
                     const std::byte* upcoming = nullptr) noexcept;

// The same by tables; any processor.
std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t before = 0) noexcept;

}  // namespace fluxcore::data
