#include "data/crc32c.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace fluxcore::data {
namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78;  // reflected: bit 31 is x^0

// v times x, modulo the polynomial.
constexpr std::uint32_t times_x(std::uint32_t v) { return (v >> 1) ^ ((v & 1) != 0 ? kPolynomial : 0); }

// tables[k][b]: the register after byte b and then k zero bytes.
constexpr auto make_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables = {};
  for (std::uint32_t b = 0; b < 256; ++b) {
    std::uint32_t v = b;
    for (int bit = 0; bit < 8; ++bit) v = times_x(v);
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

// The instruction takes three cycles and one can start each cycle, so that lanes run side by side; a fourth gives room
// for the loads. All registers but the last are then moved past the bytes after them: a carry-less product with
// x^(bits - 33), which the instruction itself reduces (it multiplies by x^32, and the reflected product is short by one
// more x).
constexpr std::size_t kLanes = 4;
constexpr std::size_t kLaneWords = 128;  // the longest lane, so that lanes together are a page
constexpr std::size_t kLine = 64;        // bytes of a cache line: what two words of each lane are together
static_assert(kLine == 2 * sizeof(std::uint64_t) * kLanes);

// shifts[w] moves a register past w 8-byte words.
constexpr auto make_shifts() {
  std::array<std::uint32_t, (kLanes - 1) * kLaneWords + 1> shifts = {};
  std::uint32_t v = 0x80000000;                             // x^0
  for (int power = 0; power < 31; ++power) v = times_x(v);  // x^31 = x^(64 - 33)
  for (std::size_t w = 1; w < shifts.size(); ++w) {
    shifts[w] = v;
    for (int power = 0; power < 64; ++power) v = times_x(v);
  }
  return shifts;
}

constexpr auto kShifts = make_shifts();

__attribute__((target("sse4.2,pclmul"))) std::uint64_t move_past(std::uint64_t state, std::size_t words) noexcept {
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(state)),
                                               _mm_cvtsi32_si128(static_cast<int>(kShifts[words])), 0);
  return _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_cvtsi128_si64(product)));
}

__attribute__((target("sse4.2,pclmul"))) std::uint32_t update_hardware(std::uint32_t state, const std::byte* at,
                                                                       std::size_t size,
                                                                       const std::byte* upcoming) noexcept {
  std::uint64_t a = state;
  if (size < 4 * kLine && upcoming != nullptr) _mm_prefetch(reinterpret_cast<const char*>(upcoming), _MM_HINT_T0);
  while (size >= 4 * kLine) {
    const std::size_t lines = std::min(size / kLine, kLaneWords / 2);
    const std::size_t words = 2 * lines;
    const std::byte* const ahead = size > lines * kLine ? at + lines * kLine : upcoming != nullptr ? upcoming : at;
    std::uint64_t b = 0;
    std::uint64_t c = 0;
    std::uint64_t d = 0;
    for (std::size_t line = 0; line < lines; ++line) {
      const std::byte* const word = at + 16 * line;
      _mm_prefetch(reinterpret_cast<const char*>(ahead + kLine * line), _MM_HINT_T0);
      a = _mm_crc32_u64(a, load64(word));
      b = _mm_crc32_u64(b, load64(word + 8 * words));
      c = _mm_crc32_u64(c, load64(word + 16 * words));
      d = _mm_crc32_u64(d, load64(word + 24 * words));
      a = _mm_crc32_u64(a, load64(word + 8));
      b = _mm_crc32_u64(b, load64(word + 8 + 8 * words));
      c = _mm_crc32_u64(c, load64(word + 8 + 16 * words));
      d = _mm_crc32_u64(d, load64(word + 8 + 24 * words));
    }
    a = move_past(a, 3 * words) ^ move_past(b, 2 * words) ^ move_past(c, words) ^ d;
    at += lines * kLine;
    size -= lines * kLine;
  }
  for (; size >= 8; at += 8, size -= 8) a = _mm_crc32_u64(a, load64(at));
  auto tail = static_cast<std::uint32_t>(a);
  for (; size > 0; ++at, --size) tail = _mm_crc32_u8(tail, static_cast<unsigned char>(*at));
  return tail;
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
