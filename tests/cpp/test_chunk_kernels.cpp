#include <doctest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "common/cpu.hpp"
#include "data/chunk_kernels.hpp"
#include "data/crc32c.hpp"

using fluxcore::Isa;
using namespace fluxcore::data;

namespace {

const ChunkKernels& kernels_of(Isa isa, TokenType token, OutType out) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return fluxcore::avx512::chunk_kernels(token, out);
  if (isa == Isa::avx2) return fluxcore::avx2::chunk_kernels(token, out);
#endif
  return fluxcore::portable::chunk_kernels(token, out);
}

// Tokens in memory that begins one item after a cache line, with one more behind them, as in a file.
template <class Token>
std::vector<Token> random_tokens(std::size_t count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::vector<Token> tokens(count + 2);
  for (Token& token : tokens) token = static_cast<Token>(random() & 0x7F);  // fits every type
  return tokens;
}

template <class Token, class Out>
void check(Isa isa, TokenType token, OutType out, std::size_t count) {
  CAPTURE(isa_name(isa));
  CAPTURE(sizeof(Token));
  CAPTURE(sizeof(Out));
  CAPTURE(count);
  const std::vector<Token> stored = random_tokens<Token>(count);
  const Token* const in = stored.data() + 1;
  constexpr Out kUntouched = 99;
  const ChunkKernels& kernels = kernels_of(isa, token, out);
  for (const bool targets : {false, true}) {
    for (const bool verify : {false, true}) {
      std::vector<Out> seen(count + 1, kUntouched);
      std::vector<Out> next(count + 1, kUntouched);
      const ChunkCopy chunk = {.in = reinterpret_cast<const std::byte*>(in),
                               .size = count * sizeof(Token),
                               .tokens = seen.data(),
                               .targets = targets ? next.data() : nullptr,
                               .upcoming = nullptr};
      if (verify) {
        REQUIRE(kernels.copy_and_check(chunk) == crc32c_portable({chunk.in, chunk.size}));
      } else {
        kernels.copy(chunk);
      }
      for (std::size_t t = 0; t < count; ++t) REQUIRE(seen[t] == static_cast<Out>(in[t]));
      // The last target is of any value: the token after the chunk is not its own.
      for (std::size_t t = 0; t + 1 < count; ++t)
        REQUIRE(next[t] == (targets ? static_cast<Out>(in[t + 1]) : kUntouched));
      REQUIRE(seen[count] == kUntouched);
      REQUIRE(next[count] == kUntouched);
    }
  }
}

template <class Token>
void check_all(Isa isa, TokenType token, std::size_t count) {
  check<Token, std::uint8_t>(isa, token, OutType::u8, count);
  check<Token, std::uint16_t>(isa, token, OutType::u16, count);
  check<Token, std::uint32_t>(isa, token, OutType::u32, count);
  check<Token, std::int32_t>(isa, token, OutType::i32, count);
  check<Token, std::int64_t>(isa, token, OutType::i64, count);
}

}  // namespace

TEST_CASE("tokens of every type become every type, with the checksum of what is stored") {
  for (const Isa isa : fluxcore::available_isas()) {
    // Around the steps of 16, 64 and 256 bytes and the 4 KiB that are asked for ahead.
    for (const std::size_t count :
         {1U, 2U, 7U, 8U, 31U, 32U, 33U, 63U, 64U, 65U, 127U, 129U, 255U, 256U, 1000U, 2047U, 2048U, 5000U}) {
      check_all<std::uint8_t>(isa, TokenType::u8, count);
      check_all<std::uint16_t>(isa, TokenType::u16, count);
      check_all<std::uint32_t>(isa, TokenType::u32, count);
    }
  }
}

TEST_CASE("tokens keep all their bits") {
  const std::vector<std::uint32_t> stored = {0xFFFFFFFE, 0x80000000, 1, 0, 0xFFFFFFFE, 0x80000000, 1, 0, 5};
  for (const Isa isa : fluxcore::available_isas()) {
    std::vector<std::int64_t> seen(8);
    const ChunkCopy chunk = {.in = reinterpret_cast<const std::byte*>(stored.data()),
                             .size = 8 * sizeof(std::uint32_t),
                             .tokens = seen.data(),
                             .targets = nullptr,
                             .upcoming = nullptr};
    kernels_of(isa, TokenType::u32, OutType::i64).copy(chunk);
    CHECK(seen == std::vector<std::int64_t>(stored.begin(), stored.end() - 1));
  }
}

TEST_CASE("what comes next is only asked for, not read") {
  const std::vector<std::uint16_t> stored = random_tokens<std::uint16_t>(4096);
  std::vector<std::int64_t> seen(4096);
  for (const Isa isa : fluxcore::available_isas()) {
    ChunkCopy chunk = {
        .in = reinterpret_cast<const std::byte*>(stored.data()),
        .size = 4096 * sizeof(std::uint16_t),
        .tokens = seen.data(),
        .targets = nullptr,
        .upcoming = reinterpret_cast<const std::byte*>(std::uintptr_t{4096})};  // nothing is mapped there
    kernels_of(isa, TokenType::u16, OutType::i64).copy(chunk);
    CHECK(kernels_of(isa, TokenType::u16, OutType::i64).copy_and_check(chunk) == crc32c({chunk.in, chunk.size}));
  }
}
