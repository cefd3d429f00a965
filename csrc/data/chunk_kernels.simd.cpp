#include "data/chunk_kernels.hpp"

#include "common/simd.hpp"
#include "data/crc32c.hpp"
#include "data/crc32c_lanes.hpp"

namespace fluxcore::FLUXCORE_ISA {
namespace {

using data::ChunkCopy;

constexpr std::size_t kLine = 64;
constexpr std::size_t kPrefetched = 4096;  // bytes from those in hand to those that are asked for

#if defined(__AVX2__)

constexpr std::size_t kRegister = 32;

// A register of tokens as `Out`; GCC converts vectors that are not a register long one element after another.
template <class Token, class Out>
[[gnu::always_inline]] inline __m256i load_widened(const Token* from) noexcept {
  if constexpr (sizeof(Token) == sizeof(Out)) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  } else {
    constexpr std::size_t kBytes = kRegister / sizeof(Out) * sizeof(Token);
    __m128i narrow = {};
    std::memcpy(&narrow, from, kBytes);
    if constexpr (sizeof(Token) == 4) return _mm256_cvtepu32_epi64(narrow);
    if constexpr (sizeof(Token) == 2 && sizeof(Out) == 8) return _mm256_cvtepu16_epi64(narrow);
    if constexpr (sizeof(Token) == 2 && sizeof(Out) == 4) return _mm256_cvtepu16_epi32(narrow);
    if constexpr (sizeof(Token) == 1 && sizeof(Out) == 8) return _mm256_cvtepu8_epi64(narrow);
    if constexpr (sizeof(Token) == 1 && sizeof(Out) == 4) return _mm256_cvtepu8_epi32(narrow);
    if constexpr (sizeof(Token) == 1 && sizeof(Out) == 2) return _mm256_cvtepu8_epi16(narrow);
  }
}

#endif

// Where the tokens of one chunk go.
template <class Token, class Out, bool kTargets>
class Widening {
 public:
  explicit Widening(const ChunkCopy& chunk)
      : in_(reinterpret_cast<const Token*>(chunk.in)),
        tokens_(static_cast<Out*>(chunk.tokens)),
        targets_(static_cast<Out*>(chunk.targets)) {}

  // kBytes of the chunk from byte `offset` on, which is a multiple of kBytes.
  template <std::size_t kBytes>
  [[gnu::always_inline]] void block(std::size_t offset) const noexcept {
    constexpr std::size_t kTokens = kBytes / sizeof(Token);
    const std::size_t first = offset / sizeof(Token);
    widen<kTokens>(in_ + first, tokens_ + first);
    if constexpr (kTargets) widen<kTokens>(in_ + first + 1, targets_ + first);
  }

  [[gnu::always_inline]] void step(std::size_t offset) const noexcept { block<16>(offset); }

  [[gnu::always_inline]] void rest(std::size_t offset, std::size_t size) const noexcept {
    const std::size_t end = (offset + size) / sizeof(Token);
    for (std::size_t t = offset / sizeof(Token); t < end; ++t) {
      tokens_[t] = static_cast<Out>(in_[t]);
      if constexpr (kTargets) targets_[t] = static_cast<Out>(in_[t + 1]);
    }
  }

 private:
  template <std::size_t kTokens>
  [[gnu::always_inline]] static void widen(const Token* from, Out* to) noexcept {
#if defined(__AVX2__)
    constexpr std::size_t kCount = kRegister / sizeof(Out);
    if constexpr (sizeof(Token) <= sizeof(Out) && kTokens % kCount == 0) {
      for (std::size_t t = 0; t < kTokens; t += kCount) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + t), load_widened<Token, Out>(from + t));
      }
      return;
    }
#endif
    for (std::size_t t = 0; t < kTokens; ++t) to[t] = static_cast<Out>(from[t]);
  }

  const Token* in_;
  Out* tokens_;
  Out* targets_;
};

template <class Token, class Out, bool kTargets>
void copy(const ChunkCopy& chunk) noexcept {
  const Widening<Token, Out, kTargets> widening(chunk);
  const std::size_t ahead = chunk.size < kPrefetched ? chunk.size : kPrefetched;
  std::size_t at = 0;
  for (; chunk.size - at >= kLine; at += kLine) {
    const std::size_t wanted = at + ahead;
    const std::byte* const next = wanted < chunk.size         ? chunk.in + wanted
                                  : chunk.upcoming != nullptr ? chunk.upcoming + (wanted - chunk.size)
                                                              : chunk.in;
    __builtin_prefetch(next);
    widening.template block<kLine>(at);
  }
  widening.rest(at, chunk.size - at);
}

template <class Token, class Out, bool kTargets>
std::uint32_t copy_and_check(const ChunkCopy& chunk) noexcept {
#if defined(__AVX2__)
  return ~data::crc_in_lanes(~std::uint32_t{0}, chunk.in, chunk.size, chunk.upcoming,
                             Widening<Token, Out, kTargets>(chunk));
#else
  const std::uint32_t crc = data::crc32c({chunk.in, chunk.size}, 0, chunk.upcoming);
  copy<Token, Out, kTargets>(chunk);
  return crc;
#endif
}

template <class Token, class Out>
constexpr data::ChunkKernels kKernels = {
    .copy =
        [](const ChunkCopy& chunk) noexcept {
          (chunk.targets == nullptr ? copy<Token, Out, false> : copy<Token, Out, true>)(chunk);
        },
    .copy_and_check =
        [](const ChunkCopy& chunk) noexcept {
          return (chunk.targets == nullptr ? copy_and_check<Token, Out, false>
                                           : copy_and_check<Token, Out, true>)(chunk);
        },
};

template <class Token>
const data::ChunkKernels& kernels_to(data::OutType out) {
  switch (out) {
    case data::OutType::u8:
      return kKernels<Token, std::uint8_t>;
    case data::OutType::u16:
      return kKernels<Token, std::uint16_t>;
    case data::OutType::u32:
      return kKernels<Token, std::uint32_t>;
    case data::OutType::i32:
      return kKernels<Token, std::int32_t>;
    case data::OutType::i64:
      break;
  }
  return kKernels<Token, std::int64_t>;
}

}  // namespace

const data::ChunkKernels& chunk_kernels(data::TokenType token, data::OutType out) {
  if (token == data::TokenType::u8) return kernels_to<std::uint8_t>(out);
  if (token == data::TokenType::u16) return kernels_to<std::uint16_t>(out);
  return kernels_to<std::uint32_t>(out);
}

}  // namespace fluxcore::FLUXCORE_ISA
