#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace fluxcore::data {

// Rows of an order.
struct Rows {
  uint64_t position = 0;
  size_t count = 0;
  bool operator==(const Rows&) const = default;
};

// Batches that are to be asked for, and which of those after them to announce.
class Schedule {
 public:
  struct Batch {
    Rows rows;
    std::vector<Rows> ahead;  // batches that have come into sight
  };

  // `at_once`: how many batches are asked for before any is waited for; what comes after them is announced with the
  // last of them, since the first is wanted soonest. `sight`: how many batches ahead to announce; 0: none.
  Schedule(size_t at_once, size_t sight) : quiet_(at_once > 0 ? at_once - 1 : 0), sight_(sight) {}

  void extend(const std::vector<Rows>& batches) { planned_.insert(planned_.end(), batches.begin(), batches.end()); }
  // The oldest batch that has not been given. Announces a quarter of those in sight at once, since a system call for
  // each would take longer than a copy; at the end of the plan, all that are left.
  std::optional<Batch> next();

 private:
  std::vector<Rows> come_into_sight();

  size_t quiet_;  // batches to come that announce nothing
  size_t sight_;
  std::deque<Rows> planned_;
  size_t announced_ = 0;  // of the planned batches
};

}  // namespace fluxcore::data
