#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>

#include "common/parallel.hpp"
#include "ops/prune_kernels.hpp"

namespace fluxcore {
namespace {

class Application {
 public:
  explicit Application(const ApplyCall& call)
      : call_(call), kernels_(prune_kernels(call.isa)), states_(call.tensors.size()) {
    for (const PruneState& state : call.states) states_.at(static_cast<std::size_t>(state.tensor)).push_back(state);
  }

  [[nodiscard]] PruneCounts apply(const PruneChunk& chunk) const {
    PruneCounts counts{};
    for (std::int64_t at = chunk.begin; at < chunk.end; at += kPruneBlock) {
      apply_block(static_cast<std::size_t>(chunk.tensor), at, std::min(kPruneBlock, chunk.end - at), counts);
    }
    return counts;
  }

 private:
  using Flags = std::array<std::uint8_t, kPruneBlock>;

  void apply_block(std::size_t t, std::int64_t begin, std::int64_t count, PruneCounts& counts) const {
    const PruneTensor& tensor = call_.tensors[t];
    Flags drop;
    Flags regrow;
    // Both before anything is written: what is dropped now must not be a candidate for regrowth.
    const std::int64_t dropped = choose(tensor, KeyKind::magnitude, call_.drop[t], begin, count, drop);
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
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) drop.at(i) |= regrow.at(i);
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
    std::array<std::uint32_t, kPruneBlock> keys;
    kernels_.keys(tensor, kind, call_.step, begin, count, keys.data());
    // Elements before `ties` are chosen also with the key of the cut itself.
    const std::int64_t ties = std::clamp<std::int64_t>(cut.index - (tensor.offset + begin), 0, count);
    const auto key = static_cast<std::uint32_t>(cut.key);
    return kernels_.below(keys.data(), ties, key + 1, chosen.data()) +
           kernels_.below(keys.data() + ties, count - ties, key, chosen.data() + ties);
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
  const std::vector<PruneChunk> chunks = prune_chunks(call.tensors);
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
