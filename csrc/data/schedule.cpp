#include "data/schedule.hpp"

#include <algorithm>

namespace fluxcore::data {

std::optional<Schedule::Batch> Schedule::next() {
  if (planned_.empty()) return std::nullopt;
  const Rows rows = planned_.front();
  planned_.pop_front();
  if (announced_ > 0) --announced_;
  if (quiet_ > 0) {
    --quiet_;
    return Batch{.rows = rows, .ahead = {}};
  }
  return Batch{.rows = rows, .ahead = come_into_sight()};
}

std::vector<Rows> Schedule::come_into_sight() {
  const size_t reach = std::min(sight_, planned_.size());
  const bool goes_on = reach == sight_;
  if (reach <= announced_ || (goes_on && announced_ > 0 && 4 * (reach - announced_) < sight_)) return {};
  const auto first = planned_.begin() + static_cast<std::ptrdiff_t>(announced_);
  const auto last = planned_.begin() + static_cast<std::ptrdiff_t>(reach);
  announced_ = reach;
  return {first, last};
}

}  // namespace fluxcore::data
