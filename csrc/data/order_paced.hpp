#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/feistel.hpp"
#include "data/order.hpp"

namespace fluxcore::data {

// From position `begin` on, chunks are drawn from the ranks [0, size).
struct Pool {
  uint64_t begin = 0;
  uint64_t size = 0;
};

// Draws from a pool of ranks that grows: uniformly, and without replacement until the pass has drawn the whole pool,
// whereupon the next pass begins. Ranks that join the pool join the pass in progress. The last pool is that of all
// ranks and lasts for ever: from then on passes are epochs.
//
// Positions fall into stretches, within which nothing is added: a stretch of `size` indices is shuffled at once. Of
// these the first `carried` stand for what the stretch before left over, the others for the ranks from `fresh` on. So a
// position leads to its rank through one shuffle for every stretch that it was carried through, and nothing is stored
// but the stretches: at most two a pool.
class PacedOrder final : public Order {
 public:
  // `pools` begin at position 0, rise in `begin` and `size`, and end with all ranks; of pools that begin together the
  // last counts. With `scattered` the pool is a part of the ranks chosen at random instead of the first.
  // Throws std::invalid_argument when they do not.
  PacedOrder(Ranking ranking, std::span<const Pool> pools, bool scattered, uint64_t seed);

  [[nodiscard]] uint64_t epoch_size() const noexcept override { return ranking_.size(); }
  void chunks_at(uint64_t position, std::span<uint64_t> chunks) const override;
  [[nodiscard]] std::vector<uint64_t> rest_of_pass(uint64_t position) const override;

  // The chunks that no position before `end` visits.
  [[nodiscard]] std::vector<uint64_t> unseen(uint64_t end) const;

 private:
  struct Stretch {
    uint64_t begin = 0;    // position
    uint64_t size = 0;     // indices; only a stretch without carried and fresh ones goes through them more than once
    uint64_t carried = 0;  // indices below it were left over by the stretch before
    uint64_t fresh = 0;    // rank of index `carried`
    uint64_t covered = 0;  // ranks below it were all drawn in the passes before
    uint64_t drawn = 0;    // of its last pass
    FeistelPermutation last_pass = FeistelPermutation(0, 1);

    [[nodiscard]] uint64_t pool() const noexcept { return fresh + size - carried; }
  };

  void build(std::span<const Pool> pools);
  void add_stretch(Stretch stretch, uint64_t length);
  [[nodiscard]] size_t stretch_at(uint64_t position) const;
  [[nodiscard]] FeistelPermutation shuffle(size_t stretch, uint64_t pass) const;
  [[nodiscard]] uint64_t rank(size_t stretch, uint64_t index) const;  // of a shuffled index
  [[nodiscard]] std::vector<uint64_t> rest_ranks(uint64_t position) const;
  void ranks_to_chunks(std::span<uint64_t> ranks) const;

  Ranking ranking_;
  bool scattered_;
  uint64_t seed_;
  FeistelPermutation scatter_;
  std::vector<Stretch> stretches_;
};

}  // namespace fluxcore::data
