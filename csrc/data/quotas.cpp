#include "data/quotas.hpp"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace fluxcore::data {

namespace {

constexpr uint64_t kNever = ~uint64_t{0};

// The next row of every source, within one period.
class Dealer {
 public:
  Dealer(std::span<const uint32_t> weights, std::span<const uint32_t> counts, uint64_t row)
      : weights_(weights), counts_(counts.begin(), counts.end()), windows_(weights.size()), row_(row) {
    for (size_t source = 0; source < weights.size(); ++source) {
      open_window(source);
    }
  }

  [[nodiscard]] const std::vector<uint64_t>& counts() const noexcept { return counts_; }

  size_t next() {
    size_t first = 0;
    uint64_t due = kNever;
    for (size_t source = 0; source < windows_.size(); ++source) {
      if (windows_[source].due < due && windows_[source].release <= row_) {
        first = source;
        due = windows_[source].due;
      }
    }
    ++counts_[first];
    ++row_;
    open_window(first);
    return first;
  }

 private:
  struct Window {
    uint64_t release = kNever;
    uint64_t due = kNever;
  };

  void open_window(size_t source) {
    const uint64_t weight = weights_[source];
    if (weight > 0) {
      const uint64_t count = counts_[source];
      windows_[source] = {.release = count * Quotas::kPeriod / weight,
                          .due = ((count + 1) * Quotas::kPeriod + weight - 1) / weight};
    }
  }

  std::span<const uint32_t> weights_;
  std::vector<uint64_t> counts_;
  std::vector<Window> windows_;
  uint64_t row_;
};

}  // namespace

Quotas::Quotas(std::vector<uint32_t> weights) : weights_(std::move(weights)) {
  const uint64_t sum = std::accumulate(weights_.begin(), weights_.end(), uint64_t{0});
  if (sum != kPeriod) {
    throw std::invalid_argument("`weights` must sum to " + std::to_string(kPeriod) + ", got " + std::to_string(sum));
  }
  checkpoints_.reserve(kPeriod / kStride * weights_.size());
  Dealer dealer(weights_, std::vector<uint32_t>(weights_.size()), 0);
  for (uint64_t row = 0; row < kPeriod; ++row) {
    if (row % kStride == 0) {
      std::ranges::transform(dealer.counts(), std::back_inserter(checkpoints_),
                             [](uint64_t count) { return static_cast<uint32_t>(count); });
    }
    dealer.next();
  }
}

void Quotas::counts_before(uint64_t row, std::span<uint64_t> counts) const {
  std::vector<uint32_t> none;
  deal(row, none, counts);
}

void Quotas::deal(uint64_t row, std::span<uint32_t> sources, std::span<uint64_t> counts) const {
  const uint64_t period = row / kPeriod;
  const uint64_t in_period = row % kPeriod;
  const size_t checkpoint = in_period / kStride * weights_.size();
  Dealer dealer(weights_, std::span(checkpoints_).subspan(checkpoint, weights_.size()), in_period / kStride * kStride);
  for (uint64_t skipped = 0; skipped < in_period % kStride; ++skipped) {
    dealer.next();
  }
  for (size_t source = 0; source < weights_.size(); ++source) {
    counts[source] = period * weights_[source] + dealer.counts()[source];
  }
  // Past the period's end the dealer goes on as it began: its windows are those of the first period, moved.
  for (uint32_t& source : sources) {
    source = static_cast<uint32_t>(dealer.next());
  }
}

}  // namespace fluxcore::data
