#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>
#include <stdexcept>
#include <string>

#include "common/parallel.hpp"
#include "ops/prune_kernels.hpp"

namespace fluxcore {
namespace {

class Application {
 public:
  explicit Application(const ApplyCall& call)
      : call_(call), kernels_(prune_kernels(call.isa)), states_(call.tensors.size()) {
    if (call.group > 0) check_pattern();
    for (const PruneState& state : call.states) states_.at(static_cast<std::size_t>(state.tensor)).push_back(state);
  }

  // Elements that are worked on at a time: no more than kPruneBlock, and whole groups.
  [[nodiscard]] std::int64_t block() const {
    return call_.group > 0 ? kPruneBlock / call_.group * call_.group : kPruneBlock;
  }

  [[nodiscard]] PruneCounts apply(const PruneChunk& chunk) const {
    PruneCounts counts{};
    for (std::int64_t at = chunk.begin; at < chunk.end; at += block()) {
      apply_block(static_cast<std::size_t>(chunk.tensor), at, std::min(block(), chunk.end - at), counts);
    }
    return counts;
  }

 private:
  using Flags = std::array<std::uint8_t, kPruneBlock>;

  void check_pattern() const {
    if (call_.group > kPruneBlock || call_.keep < 0 || call_.keep > call_.group) {
      throw std::invalid_argument("`keep` must be within [0, `group`] and `group` at most " +
                                  std::to_string(kPruneBlock) + ", got " + std::to_string(call_.keep) + " of " +
                                  std::to_string(call_.group));
    }
    for (const PruneTensor& tensor : call_.tensors) {
      if (tensor.count % call_.group != 0 || tensor.offset % call_.group != 0) {
        throw std::invalid_argument("`group` must divide each tensor's elements and offset, got " +
                                    std::to_string(call_.group) + " for " + std::to_string(tensor.count) +
                                    " elements from " + std::to_string(tensor.offset));
      }
    }
  }

  void apply_block(std::size_t t, std::int64_t begin, std::int64_t count, PruneCounts& counts) const {
    const PruneTensor& tensor = call_.tensors[t];
    Flags drop;
    Flags regrow;
    // Both before anything is written: what is dropped now must not be a candidate for regrowth.
    const std::int64_t dropped = call_.group > 0
                                     ? choose_by_pattern(tensor, begin, count, drop)
                                     : choose(tensor, KeyKind::magnitude, call_.drop[t], begin, count, drop);
    const std::int64_t regrown = choose(tensor, call_.regrow_kind, call_.regrow[t], begin, count, regrow);
    const int size = static_cast<int>(dtype_size(tensor.dtype));
    std::byte* weights = static_cast<std::byte*>(tensor.weight) + begin * size;
    if (dropped > 0) kernels_.clear(weights, size, count, drop.data());
    if (regrown > 0) {
      if (tensor.noise_std > 0.0F) {
        kernels_.regrow(tensor, call_.step, begin, count, regrow.data());
      } else {
        kernels_.clear(weights, size, count, regrow.data());
      }
    }
    counts.dropped += dropped;
    counts.regrown += regrown;
    if (tensor.mask == nullptr) {
      counts.active += count;
    } else {
      counts.active += update_mask(tensor.mask + begin, count, drop.data(), regrow.data(), dropped + regrown > 0);
    }
    if (dropped + regrown == 0 || states_[t].empty()) return;
    either(drop.data(), regrow.data(), count);
    for (const PruneState& state : states_[t]) {
      kernels_.clear(static_cast<std::byte*>(state.data) + begin * state.element_size, state.element_size, count,
                     drop.data());
    }
  }

  std::int64_t choose(const PruneTensor& tensor, KeyKind kind, const Cut& cut, std::int64_t begin, std::int64_t count,
                      Flags& chosen) const {
    if (cut.key == 0 && cut.index <= 0) {
      std::fill_n(chosen.begin(), count, std::uint8_t{0});
      return 0;
    }
    // Elements before `ties` are chosen also with the key of the cut itself.
    const std::int64_t ties = std::clamp<std::int64_t>(cut.index - (tensor.offset + begin), 0, count);
    const auto key = static_cast<std::uint32_t>(cut.key);
    if (are_bfloat16_magnitudes(tensor, kind)) {
      return kernels_.below_bfloat16(tensor, begin, ties, key + 1, chosen.data()) +
             kernels_.below_bfloat16(tensor, begin + ties, count - ties, key, chosen.data() + ties);
    }
    std::array<std::uint32_t, kPruneBlock> keys;
    kernels_.keys(tensor, kind, call_.step, begin, count, keys.data());
    return kernels_.below(keys.data(), ties, key + 1, chosen.data()) +
           kernels_.below(keys.data() + ties, count - ties, key, chosen.data() + ties);
  }

  std::int64_t choose_by_pattern(const PruneTensor& tensor, std::int64_t begin, std::int64_t count,
                                 Flags& chosen) const {
    std::array<std::uint32_t, kPruneBlock> keys;
    kernels_.keys(tensor, KeyKind::magnitude, call_.step, begin, count, keys.data());
    return kernels_.all_but_largest(keys.data(), count, call_.keep, call_.group, chosen.data());
  }

  static void either(std::uint8_t* drop, const std::uint8_t* regrow, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) drop[i] = static_cast<std::uint8_t>(drop[i] | regrow[i]);
  }

  static std::int64_t update_mask(std::uint8_t* mask, std::int64_t count, const std::uint8_t* drop,
                                  const std::uint8_t* regrow, bool changed) {
    std::uint32_t active = 0;
    if (changed) {
      for (std::int64_t i = 0; i < count; ++i) {
        mask[i] = static_cast<std::uint8_t>((mask[i] & (drop[i] ^ 1U)) | regrow[i]);
      }
    }
    for (std::int64_t i = 0; i < count; ++i) active += mask[i];
    return active;
  }

  const ApplyCall& call_;
  const PruneKernels& kernels_;
  std::vector<std::vector<PruneState>> states_;  // of each tensor
};

}  // namespace

void prune_apply(const ApplyCall& call, PruneCounts* counts) {
  // All that may throw comes before the first write, so that a failed call leaves the weights as they were.
  const Application application(call);
  const std::vector<PruneChunk> chunks = prune_chunks(call.tensors, application.block());
  std::fill_n(counts, call.tensors.size(), PruneCounts{});
  std::mutex merge;
  parallel_for(static_cast<std::int64_t>(chunks.size()), 1, call.threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      const PruneChunk& chunk = chunks[static_cast<std::size_t>(c)];
      const PruneCounts here = application.apply(chunk);
      const std::lock_guard lock(merge);
      PruneCounts& all = counts[chunk.tensor];
      all.dropped += here.dropped;
      all.regrown += here.regrown;
      all.active += here.active;
    }
  });
}

}  // namespace fluxcore
