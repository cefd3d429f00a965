#include <doctest.h>

#include <random>
#include <string_view>
#include <vector>

#include "data/crc32c.hpp"

using fluxcore::data::crc32c;
using fluxcore::data::crc32c_portable;

TEST_CASE("known values of RFC 3720") {
  const std::string_view digits = "123456789";
  CHECK(crc32c(std::as_bytes(std::span(digits))) == 0xE3069283);
  CHECK(crc32c_portable(std::as_bytes(std::span(digits))) == 0xE3069283);
  const std::vector<std::byte> zeros(32);
  CHECK(crc32c(zeros) == 0x8A9136AA);
  const std::vector<std::byte> ones(32, std::byte{0xFF});
  CHECK(crc32c(ones) == 0x62A8AB43);
  CHECK(crc32c({}) == 0);
}

TEST_CASE("the instruction and the tables agree on every length and alignment") {
  std::mt19937 random(1);
  std::vector<std::byte> data(20'000);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  const std::span<const std::byte> all(data);
  for (std::size_t size = 0; size < 1'500; ++size) {
    const auto part = all.subspan(size % 9, size);
    REQUIRE(crc32c(part) == crc32c_portable(part));
  }
  for (const std::size_t size : {4'096U, 6'143U, 6'144U, 6'145U, 12'289U, 19'999U}) {
    REQUIRE(crc32c(all.first(size)) == crc32c_portable(all.first(size)));
  }
}

TEST_CASE("a value goes on after earlier bytes") {
  std::vector<std::byte> data(5'000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7);
  const std::span<const std::byte> all(data);
  for (const std::size_t cut : {0U, 1U, 8U, 192U, 4'999U, 5'000U}) {
    CHECK(crc32c(all.subspan(cut), crc32c(all.first(cut))) == crc32c(all));
  }
}
