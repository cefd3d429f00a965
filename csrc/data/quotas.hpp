#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fluxcore::data {

// Deals rows to sources in proportion to integer weights, by earliest deadline.
//
// Weights sum to kPeriod. The j-th row of a source of weight w is released at floor(j * kPeriod / w) and due at
// ceil((j + 1) * kPeriod / w); each row goes to the source that is released and due first, the lower number where two
// are. Since the shares sum to 1 no deadline is missed (Liu and Layland 1973; Baruah et al. 1996): after n rows a
// source has had more than n w / kPeriod - 1 and less than n w / kPeriod + 1 of them. The dealing repeats after kPeriod
// rows; checkpoints within the period bound what must be dealt again to begin anywhere.
class Quotas {
 public:
  static constexpr uint64_t kPeriod = 1 << 16;

  // Throws std::invalid_argument when the weights do not sum to kPeriod.
  explicit Quotas(std::vector<uint32_t> weights);

  [[nodiscard]] std::span<const uint32_t> weights() const noexcept { return weights_; }

  // Rows of each source among the first `row`. `counts` has one entry a source.
  void counts_before(uint64_t row, std::span<uint64_t> counts) const;

  // Source of each row from `row` on. `counts` gets the rows of each source before `row`.
  void deal(uint64_t row, std::span<uint32_t> sources, std::span<uint64_t> counts) const;

 private:
  static constexpr uint64_t kStride = 512;  // rows between checkpoints

  std::vector<uint32_t> weights_;
  std::vector<uint32_t> checkpoints_;  // [kPeriod / kStride, sources]: counts before each
};

}  // namespace fluxcore::data
