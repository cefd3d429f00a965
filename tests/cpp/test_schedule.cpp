#include <doctest.h>

#include <algorithm>
#include <vector>

#include "data/schedule.hpp"

using fluxcore::data::Rows;
using fluxcore::data::Schedule;

namespace {

std::vector<Rows> batches(uint64_t first, uint64_t count) {
  std::vector<Rows> rows;
  for (uint64_t b = first; b < first + count; ++b) rows.push_back({.position = 10 * b, .count = 10});
  return rows;
}

// A run of 60 batches that is planned in pieces.
void check_announcements(size_t sight, uint64_t at_once, uint64_t piece) {
  constexpr uint64_t kBatches = 60;
  Schedule schedule(at_once, sight);
  uint64_t planned = 0;
  std::vector<Rows> announced;
  size_t announcements = 0;
  for (uint64_t asked = 0; asked < kBatches; ++asked) {
    // As the caller keeps it: never less planned than is in sight.
    while (planned < kBatches && planned < asked + 1 + sight) {
      const uint64_t count = std::min(piece, kBatches - planned);
      schedule.extend(batches(planned, count));
      planned += count;
    }
    const auto batch = schedule.next();
    REQUIRE(batch->rows == Rows{10 * asked, 10});
    if (asked >= at_once) REQUIRE(announced.size() + at_once > asked);
    if (asked + 1 < at_once) REQUIRE(batch->ahead.empty());
    announced.insert(announced.end(), batch->ahead.begin(), batch->ahead.end());
    if (!batch->ahead.empty()) ++announcements;
    REQUIRE(announced.size() + at_once <= std::max(asked + 1, at_once) + sight);
  }
  CHECK(announced == batches(at_once, at_once < kBatches ? kBatches - at_once : 0));
  CHECK(announcements <= 2 + 4 * kBatches / sight);
}

}  // namespace

TEST_CASE("batches come in the order planned, and end") {
  Schedule schedule(1, 0);
  CHECK_FALSE(schedule.next().has_value());
  schedule.extend(batches(0, 2));
  CHECK(schedule.next()->rows == Rows{0, 10});
  schedule.extend(batches(2, 1));
  CHECK(schedule.next()->rows == Rows{10, 10});
  CHECK(schedule.next()->rows == Rows{20, 10});
  CHECK_FALSE(schedule.next().has_value());
}

TEST_CASE("every batch but the first ones is announced once, before it is asked for, and none too early") {
  for (const size_t sight : std::vector<size_t>{1, 2, 3, 8, 11, 32, 100}) {
    for (const uint64_t at_once : std::vector<uint64_t>{1, 4, 70}) {
      check_announcements(sight, at_once, 1);
      check_announcements(sight, at_once, 7);
      check_announcements(sight, at_once, 60);
    }
  }
}

TEST_CASE("nothing is announced where nothing is in sight") {
  Schedule schedule(1, 0);
  schedule.extend(batches(0, 20));
  while (const auto batch = schedule.next()) CHECK(batch->ahead.empty());
}
