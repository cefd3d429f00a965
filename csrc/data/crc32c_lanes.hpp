#pragma once

#include <cstdint>

namespace fluxcore::data {

inline constexpr std::uint32_t kCrcPolynomial = 0x82F63B78;  // reflected: bit 31 is x^0

// v times x, modulo the polynomial.
constexpr std::uint32_t crc_times_x(std::uint32_t v) { return (v >> 1) ^ ((v & 1) != 0 ? kCrcPolynomial : 0); }

}  // namespace fluxcore::data

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstring>

// The CRC instruction of x86, with room for other work beside it. Everything is inlined into its caller, which must be
// compiled for SSE 4.2 and PCLMUL: see common/simd.hpp for what one program may not share between instruction sets.
namespace fluxcore::data {

// The instruction takes three cycles and one can start each cycle, so that lanes run side by side; a fourth gives room
// for the loads. All registers but the last are then moved past the bytes after them: a carry-less product with
// x^(bits - 33), which the instruction itself reduces (it multiplies by x^32, and the reflected product is short by one
// more x).
inline constexpr std::size_t kCrcLanes = 4;
inline constexpr std::size_t kCrcLaneWords = 128;  // the longest lane, so that lanes together are a page
inline constexpr std::size_t kCrcStep = 2 * sizeof(std::uint64_t);  // bytes of a lane at a time
inline constexpr std::size_t kCrcLine = kCrcStep * kCrcLanes;       // bytes of all lanes at a time
static_assert(kCrcLine == 64, "a cache line of what comes next is asked for at a time");

struct CrcShifts {
  std::uint32_t past[(kCrcLanes - 1) * kCrcLaneWords + 1];  // past[w] moves a register past w 8-byte words
};

inline constexpr CrcShifts kCrcShifts = [] {
  CrcShifts shifts = {};
  std::uint32_t v = 0x80000000;                                 // x^0
  for (int power = 0; power < 31; ++power) v = crc_times_x(v);  // x^31 = x^(64 - 33)
  for (std::size_t w = 1; w <= (kCrcLanes - 1) * kCrcLaneWords; ++w) {
    shifts.past[w] = v;
    for (int power = 0; power < 64; ++power) v = crc_times_x(v);
  }
  return shifts;
}();

#define FLUXCORE_CRC_INLINE [[gnu::always_inline, gnu::target("sse4.2,pclmul")]] inline

FLUXCORE_CRC_INLINE std::uint64_t crc_word(const std::byte* at) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof word);
  return word;
}

FLUXCORE_CRC_INLINE std::uint64_t crc_move_past(std::uint64_t state, std::size_t words) noexcept {
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(state)),
                                               _mm_cvtsi32_si128(static_cast<int>(kCrcShifts.past[words])), 0);
  return _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_cvtsi128_si64(product)));
}

// The register after `size` bytes. The instruction leaves memory idle, so that meanwhile as many bytes at `upcoming`
// come into the cache. `beside.step(offset)` is called once for each kCrcStep bytes that have been read, and
// `beside.rest(offset, size)` for those at the end; together they make the whole.
template <class Beside>
FLUXCORE_CRC_INLINE std::uint32_t crc_in_lanes(std::uint32_t state, const std::byte* const bytes, std::size_t size,
                                               const std::byte* upcoming, const Beside& beside) noexcept {
  std::uint64_t a = state;
  std::size_t at = 0;
  if (size < kCrcLanes * kCrcLine && upcoming != nullptr) {
    _mm_prefetch(reinterpret_cast<const char*>(upcoming), _MM_HINT_T0);
  }
  while (size - at >= kCrcLanes * kCrcLine) {
    std::size_t lines = (size - at) / kCrcLine;
    if (lines > kCrcLaneWords / 2) lines = kCrcLaneWords / 2;
    const std::size_t words = 2 * lines;
    const std::size_t lane = sizeof(std::uint64_t) * words;
    const std::byte* const here = bytes + at;
    const std::byte* const ahead = size - at > lines * kCrcLine ? here + lines * kCrcLine
                                   : upcoming != nullptr        ? upcoming
                                                                : here;
    std::uint64_t b = 0;
    std::uint64_t c = 0;
    std::uint64_t d = 0;
    for (std::size_t line = 0; line < lines; ++line) {
      const std::byte* const word = here + kCrcStep * line;
      _mm_prefetch(reinterpret_cast<const char*>(ahead + kCrcLine * line), _MM_HINT_T0);
      a = _mm_crc32_u64(a, crc_word(word));
      b = _mm_crc32_u64(b, crc_word(word + lane));
      c = _mm_crc32_u64(c, crc_word(word + 2 * lane));
      d = _mm_crc32_u64(d, crc_word(word + 3 * lane));
      a = _mm_crc32_u64(a, crc_word(word + 8));
      b = _mm_crc32_u64(b, crc_word(word + 8 + lane));
      c = _mm_crc32_u64(c, crc_word(word + 8 + 2 * lane));
      d = _mm_crc32_u64(d, crc_word(word + 8 + 3 * lane));
      for (std::size_t l = 0; l < kCrcLanes; ++l) beside.step(at + kCrcStep * line + l * lane);
    }
    a = crc_move_past(a, 3 * words) ^ crc_move_past(b, 2 * words) ^ crc_move_past(c, words) ^ d;
    at += lines * kCrcLine;
  }
  beside.rest(at, size - at);
  for (; size - at >= 8; at += 8) a = _mm_crc32_u64(a, crc_word(bytes + at));
  auto tail = static_cast<std::uint32_t>(a);
  for (; at < size; ++at) tail = _mm_crc32_u8(tail, static_cast<unsigned char>(bytes[at]));
  return tail;
}

#undef FLUXCORE_CRC_INLINE

}  // namespace fluxcore::data

#endif
