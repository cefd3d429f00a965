#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/order.hpp"
#include "data/quotas.hpp"

namespace fluxcore::data {

// Several orders as one: each row comes from the order of one source, dealt by weights that may change at given rows.
// Each source goes through its own order row by row, from epoch to epoch, and a change of weights makes it neither skip
// nor repeat.
class MixedOrder final : public Order {
 public:
  // `cursors`: the position of each source at row `begin`, from which on the weights hold; rows before it are not
  // known. Throws std::invalid_argument when the numbers of orders, cursors and weights differ, when the weights are no
  // Quotas, or when an order that is given a weight is over no chunks.
  MixedOrder(const std::vector<std::shared_ptr<const Order>>& orders, uint64_t begin, std::vector<uint64_t> cursors,
             std::vector<uint32_t> weights);

  // The same, with other weights from row `begin` on; changes at or after it are forgotten. Throws
  // std::invalid_argument as the constructor does, and when `begin` is before the first row.
  [[nodiscard]] std::shared_ptr<MixedOrder> with_weights(uint64_t begin, std::vector<uint32_t> weights) const;

  [[nodiscard]] uint64_t epoch_size() const noexcept override { return epoch_size_; }  // chunks of all orders

  // Both throw std::out_of_range for rows before the first that is known.
  void chunks_at(uint64_t position, std::span<uint64_t> chunks) const override;
  // Which source each row is from, and the position within that source's order.
  void places_at(uint64_t position, std::span<uint32_t> sources, std::span<uint64_t> positions) const;

  // Position of each source before a row.
  [[nodiscard]] std::vector<uint64_t> cursors_at(uint64_t position) const;

  // A mixture has no passes of its own.
  [[nodiscard]] std::vector<uint64_t> rest_of_pass(uint64_t /*position*/) const override { return {}; }

 private:
  struct Phase {
    uint64_t begin = 0;
    std::vector<uint64_t> cursors;
    std::shared_ptr<const Quotas> quotas;
  };

  MixedOrder(const std::vector<std::shared_ptr<const Order>>& orders, std::vector<Phase> phases);
  void check_phase() const;  // the last
  [[nodiscard]] size_t phase_at(uint64_t position) const;

  std::vector<std::shared_ptr<const Order>> orders_;
  std::vector<Phase> phases_;
  uint64_t epoch_size_ = 0;
};

}  // namespace fluxcore::data
