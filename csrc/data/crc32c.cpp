#include "data/crc32c.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "data/crc32c_lanes.hpp"

#if defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace fluxcore::data {
namespace {

// tables[k][b]: the register after byte b and then k zero bytes.
constexpr auto make_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables = {};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t v = b;
    for (int bit = 0; bit < 8; ++bit) v = crc_times_x(v);
    tables[0][b] = v;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t b = 0; b < 256; ++b) {
      const std::uint32_t v = tables[k - 1][b];
      tables[k][b] = (v >> 8) ^ tables[0][v & 0xFF];
    }
  }
  return tables;
}

constexpr auto kTables = make_tables();

std::uint64_t load64(const std::byte* at) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof word);
  return word;
}

std::uint32_t update_portable(std::uint32_t state, const std::byte* at, std::size_t size,
                              const std::byte* /*upcoming*/) noexcept {
  for (; size >= 8; at += 8, size -= 8) {
    const std::uint64_t word = load64(at) ^ state;
    state = 0;
    for (unsigned k = 0; k < 8; ++k) state ^= kTables[7 - k][(word >> (8 * k)) & 0xFF];
  }
  for (; size > 0; ++at, --size) state = (state >> 8) ^ kTables[0][(state ^ static_cast<std::uint32_t>(*at)) & 0xFF];
  return state;
}

#if defined(__x86_64__)

struct Nothing {
  void step(std::size_t /*offset*/) const noexcept {}
  void rest(std::size_t /*offset*/, std::size_t /*size*/) const noexcept {}
};

__attribute__((target("sse4.2,pclmul"))) std::uint32_t update_hardware(std::uint32_t state, const std::byte* at,
                                                                       std::size_t size,
                                                                       const std::byte* upcoming) noexcept {
  return crc_in_lanes(state, at, size, upcoming, Nothing{});
}

bool has_hardware() noexcept {
  __builtin_cpu_init();
  return __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}

#elif defined(__aarch64__)

__attribute__((target("+crc"))) std::uint32_t update_hardware(std::uint32_t state, const std::byte* at,
                                                              std::size_t size,
                                                              const std::byte* /*upcoming*/) noexcept {
  for (; size >= 8; at += 8, size -= 8) state = __crc32cd(state, load64(at));
  for (; size > 0; ++at, --size) state = __crc32cb(state, static_cast<std::uint8_t>(*at));
  return state;
}

bool has_hardware() noexcept { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }

#else

std::uint32_t update_hardware(std::uint32_t state, const std::byte* at, std::size_t size,
                              const std::byte* upcoming) noexcept {
  return update_portable(state, at, size, upcoming);
}

bool has_hardware() noexcept { return false; }

#endif

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before, const std::byte* upcoming) noexcept {
  static const bool hardware = has_hardware();
  return ~(hardware ? update_hardware : update_portable)(~before, bytes.data(), bytes.size(), upcoming);
}

std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t before) noexcept {
  return ~update_portable(~before, bytes.data(), bytes.size(), nullptr);
}

}  // namespace fluxcore::data
