#include "data/mixture.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace fluxcore::data {

MixedOrder::MixedOrder(const std::vector<std::shared_ptr<const Order>>& orders, uint64_t begin,
                       std::vector<uint64_t> cursors, std::vector<uint32_t> weights)
    : MixedOrder(orders, {Phase{.begin = begin,
                                .cursors = std::move(cursors),
                                .quotas = std::make_shared<const Quotas>(std::move(weights))}}) {}

MixedOrder::MixedOrder(const std::vector<std::shared_ptr<const Order>>& orders, std::vector<Phase> phases)
    : orders_(orders), phases_(std::move(phases)) {
  for (const auto& order : orders_) {
    epoch_size_ += order->epoch_size();
  }
  check_phase();
}

void MixedOrder::check_phase() const {
  const Phase& phase = phases_.back();
  const auto weights = phase.quotas->weights();
  if (weights.size() != orders_.size() || phase.cursors.size() != orders_.size()) {
    throw std::invalid_argument("there must be one weight and one cursor for each of the " +
                                std::to_string(orders_.size()) + " orders, got " + std::to_string(weights.size()) +
                                " and " + std::to_string(phase.cursors.size()));
  }
  for (size_t source = 0; source < orders_.size(); ++source) {
    if (weights[source] > 0 && orders_[source]->epoch_size() == 0) {
      throw std::invalid_argument("source " + std::to_string(source) + " has no chunks, its weight must be 0, got " +
                                  std::to_string(weights[source]));
    }
  }
}

std::shared_ptr<MixedOrder> MixedOrder::with_weights(uint64_t begin, std::vector<uint32_t> weights) const {
  if (begin < phases_.front().begin) {
    throw std::invalid_argument("`begin` must be >= " + std::to_string(phases_.front().begin) + ", got " +
                                std::to_string(begin));
  }
  std::vector<Phase> phases = phases_;
  Phase phase{
      .begin = begin, .cursors = cursors_at(begin), .quotas = std::make_shared<const Quotas>(std::move(weights))};
  std::erase_if(phases, [begin](const Phase& each) { return each.begin >= begin; });
  phases.push_back(std::move(phase));
  return std::shared_ptr<MixedOrder>(new MixedOrder(orders_, std::move(phases)));
}

size_t MixedOrder::phase_at(uint64_t position) const {
  const auto after = std::ranges::upper_bound(phases_, position, {}, &Phase::begin);
  if (after == phases_.begin()) {
    throw std::out_of_range("rows before " + std::to_string(phases_.front().begin) +
                            " are not known to this mixture, got row " + std::to_string(position));
  }
  return static_cast<size_t>(after - phases_.begin()) - 1;
}

void MixedOrder::places_at(uint64_t position, std::span<uint32_t> sources, std::span<uint64_t> positions) const {
  std::vector<uint64_t> counts(orders_.size());
  while (!sources.empty()) {
    const size_t number = phase_at(position);
    const Phase& phase = phases_[number];
    uint64_t count = sources.size();
    if (number + 1 < phases_.size()) {
      count = std::min(count, phases_[number + 1].begin - position);
    }
    phase.quotas->deal(position - phase.begin, sources.first(count), counts);
    for (size_t row = 0; row < count; ++row) {
      positions[row] = phase.cursors[sources[row]] + counts[sources[row]]++;
    }
    position += count;
    sources = sources.subspan(count);
    positions = positions.subspan(count);
  }
}

void MixedOrder::chunks_at(uint64_t position, std::span<uint64_t> chunks) const {
  std::vector<uint32_t> sources(chunks.size());
  places_at(position, sources, chunks);
  // The rows of a source stand at consecutive positions of its order, so that they are one call.
  std::vector<size_t> rows;
  std::vector<uint64_t> run;
  for (size_t source = 0; source < orders_.size(); ++source) {
    rows.clear();
    for (size_t row = 0; row < sources.size(); ++row) {
      if (sources[row] == source) {
        rows.push_back(row);
      }
    }
    if (rows.empty()) {
      continue;
    }
    run.resize(rows.size());
    orders_[source]->chunks_at(chunks[rows.front()], run);
    for (size_t i = 0; i < rows.size(); ++i) {
      chunks[rows[i]] = run[i];
    }
  }
}

std::vector<uint64_t> MixedOrder::cursors_at(uint64_t position) const {
  const Phase& phase = phases_[phase_at(position)];
  std::vector<uint64_t> counts(orders_.size());
  phase.quotas->counts_before(position - phase.begin, counts);
  for (size_t source = 0; source < counts.size(); ++source) {
    counts[source] += phase.cursors[source];
  }
  return counts;
}

}  // namespace fluxcore::data
