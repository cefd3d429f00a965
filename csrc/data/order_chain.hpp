#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/order.hpp"

namespace fluxcore::data {

// From position `begin` on, an order that is at its own position `offset` there.
struct Link {
  uint64_t begin = 0;
  uint64_t offset = 0;
  std::shared_ptr<const Order> order;
};

// Orders one after another.
class ChainOrder final : public Order {
 public:
  // `links` begin at position 0 and rise; the last lasts for ever. Throws std::invalid_argument when they do not.
  ChainOrder(std::vector<Link> links, uint64_t epoch_size);

  [[nodiscard]] uint64_t epoch_size() const noexcept override { return epoch_size_; }
  void chunks_at(uint64_t position, std::span<uint64_t> chunks) const override;
  [[nodiscard]] std::vector<uint64_t> rest_of_pass(uint64_t position) const override;

 private:
  [[nodiscard]] size_t link_at(uint64_t position) const;

  std::vector<Link> links_;
  uint64_t epoch_size_;
};

}  // namespace fluxcore::data
