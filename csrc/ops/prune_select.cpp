#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>

#include "common/parallel.hpp"
#include "ops/prune_bracket.hpp"
#include "ops/prune_kernels.hpp"

// Radix selection, most significant bits first: each pass counts the keys that agree with the bits found so far by
// their next bits, and so finds those of the key sought. It serves where no sample brackets the key, as among weights
// that are nearly all equal.
namespace fluxcore {
namespace {

constexpr std::array<int, 3> kShift = {20, 10, 0};
constexpr std::size_t kBins = 2048;       // of the first pass; kNoKey falls beyond them
constexpr std::size_t kLowerBins = 1024;  // of the others
constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

// One search: over all tensors or one.
struct Search {
  std::int64_t candidates = 0;
  std::int64_t k = 0;        // to be chosen among those that agree with prefix
  std::uint32_t prefix = 0;  // the bits found so far
  std::uint32_t bin = 0;     // the last bits found
  std::vector<std::uint64_t> histogram;
};

class Selection {
 public:
  explicit Selection(const SelectCall& call)
      : call_(call),
        kernels_(prune_kernels(call.isa)),
        chunks_(prune_chunks(call.tensors)),
        searches_(call.per_tensor ? call.tensors.size() : 1) {
    // Half types widened to float have zeros there, and zeros taken from kMaxKey are ones.
    const auto half = [](const PruneTensor& tensor) { return tensor.dtype != DType::float32; };
    const bool short_keys = call.kind != KeyKind::random && std::ranges::all_of(call.tensors, half);
    passes_ = short_keys ? 2 : 3;
    unseen_bits_ = short_keys && call.kind == KeyKind::gradient ? kLowerBins - 1 : 0;
  }

  void run(Cut* cuts) {
    for (std::size_t pass = 0; pass < passes_; ++pass) {
      count_keys(pass);
      for (std::size_t s = 0; s < searches_.size(); ++s) narrow(pass, s);
    }
    for (std::size_t t = 0; t < call_.tensors.size(); ++t) {
      const Search& search = search_of(t);
      const bool nothing = search.k == 0;
      cuts[t] = {.key = nothing ? 0 : key_of(search), .index = nothing ? 0 : kAll};
    }
    if (call_.ties) {
      for (std::size_t s = 0; s < searches_.size(); ++s) cut_ties(s, cuts);
    }
  }

 private:
  Search& search_of(std::size_t tensor) { return searches_[call_.per_tensor ? tensor : 0]; }

  [[nodiscard]] std::uint32_t key_of(const Search& search) const {
    return passes_ == 3 ? search.prefix : search.prefix << kShift[1] | unseen_bits_;
  }

  void count_keys(std::size_t pass) {
    const bool last = pass + 1 == passes_;
    if (last && call_.ties) counts_.assign(chunks_.size() * kLowerBins, 0);
    for (Search& search : searches_) search.histogram.assign(pass == 0 ? kBins : kLowerBins, 0);
    parallel_for(static_cast<std::int64_t>(chunks_.size()), 1, call_.threads,
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t c = begin; c < end; ++c) count_chunk(pass, static_cast<std::size_t>(c));
                 });
  }

  void count_chunk(std::size_t pass, std::size_t c) {
    const PruneChunk& chunk = chunks_[c];
    Search& search = search_of(static_cast<std::size_t>(chunk.tensor));
    if (pass > 0 && search.k == 0) return;
    std::array<std::uint32_t, kBins> bins{};
    if (pass == 0) {
      count_top_bits(chunk, bins);
    } else {
      count_lower_bits(chunk, search, kShift.at(pass), bins);
    }
    if (pass + 1 == passes_ && call_.ties) {
      std::ranges::copy_n(bins.begin(), kLowerBins, counts_.begin() + static_cast<std::ptrdiff_t>(c * kLowerBins));
    }
    const std::lock_guard lock(merge_);
    for (std::size_t bin = 0; bin < search.histogram.size(); ++bin) search.histogram[bin] += bins.at(bin);
  }

  void count_top_bits(const PruneChunk& chunk, std::array<std::uint32_t, kBins>& bins) const {
    // Weights share few exponents: four tables, so that an addition need not wait for the one before it.
    std::array<std::array<std::uint32_t, 2 * kBins>, 4> tables{};
    std::array<std::uint32_t, kPruneBlock> keys;
    for (std::int64_t at = chunk.begin; at < chunk.end; at += kPruneBlock) {
      const auto n = static_cast<std::size_t>(read_keys(chunk, at, keys.data()));
      std::size_t i = 0;
      for (; i + 4 <= n; i += 4) {
        ++tables[0][keys[i] >> kShift[0]];
        ++tables[1][keys[i + 1] >> kShift[0]];
        ++tables[2][keys[i + 2] >> kShift[0]];
        ++tables[3][keys[i + 3] >> kShift[0]];
      }
      for (; i < n; ++i) ++tables[0][keys[i] >> kShift[0]];
    }
    for (std::size_t bin = 0; bin < kBins; ++bin) {
      bins[bin] = tables[0][bin] + tables[1][bin] + tables[2][bin] + tables[3][bin];
    }
  }

  void count_lower_bits(const PruneChunk& chunk, const Search& search, int shift,
                        std::array<std::uint32_t, kBins>& bins) const {
    std::array<std::uint32_t, kPruneBlock> keys;
    std::array<std::uint32_t, kPruneBlock + 16> matching;
    for (std::int64_t at = chunk.begin; at < chunk.end; at += kPruneBlock) {
      const std::int64_t n = read_keys(chunk, at, keys.data());
      const std::int64_t found = kernels_.compress(keys.data(), n, shift + 10, search.prefix, matching.data());
      for (std::size_t i = 0; i < static_cast<std::size_t>(found); ++i) {
        ++bins[matching[i] >> shift & (kLowerBins - 1)];
      }
    }
  }

  std::int64_t read_keys(const PruneChunk& chunk, std::int64_t at, std::uint32_t* keys) const {
    const std::int64_t n = std::min(kPruneBlock, chunk.end - at);
    kernels_.keys(call_.tensors[static_cast<std::size_t>(chunk.tensor)], call_.kind, call_.step, at, n, keys);
    return n;
  }

  // Takes the bits of the key sought out of the histogram.
  void narrow(std::size_t pass, std::size_t s) {
    Search& search = searches_[s];
    if (pass == 0) {
      for (const std::uint64_t count : search.histogram) search.candidates += static_cast<std::int64_t>(count);
      search.k = wanted_of(call_, s, search.candidates);
    }
    if (search.k == 0) return;
    std::uint32_t bin = 0;
    while (search.k > static_cast<std::int64_t>(search.histogram[bin])) {
      search.k -= static_cast<std::int64_t>(search.histogram[bin++]);
    }
    search.bin = bin;
    search.prefix = pass == 0 ? bin : search.prefix << 10 | bin;
  }

  // Finds the place up to which elements with the key of the cut are chosen.
  void cut_ties(std::size_t s, Cut* cuts) {
    const Search& search = searches_[s];
    if (search.k == 0) return;
    std::int64_t wanted = search.k;
    for (std::size_t c = 0; c < chunks_.size(); ++c) {
      const auto t = static_cast<std::size_t>(chunks_[c].tensor);
      if (call_.per_tensor && t != s) continue;
      const std::int64_t here = counts_[c * kLowerBins + search.bin];
      if (here < wanted) {
        wanted -= here;
        continue;
      }
      cuts[t].index = after_tie(call_, chunks_[c], key_of(search), wanted);
      for (std::size_t later = t + 1; !call_.per_tensor && later < call_.tensors.size(); ++later) {
        cuts[later].index = 0;
      }
      return;
    }
  }

  const SelectCall& call_;
  const PruneKernels& kernels_;
  const std::vector<PruneChunk> chunks_;
  std::vector<Search> searches_;
  std::size_t passes_ = 3;
  std::uint32_t unseen_bits_ = 0;      // below those of the last pass; the same in every key
  std::vector<std::uint32_t> counts_;  // [chunks, kLowerBins] of the last pass
  std::mutex merge_;
};

}  // namespace

std::int64_t wanted_of(const SelectCall& call, std::size_t search, std::int64_t candidates) {
  const std::int64_t k = call.k.empty()
                             ? static_cast<std::int64_t>(std::floor(call.fraction * static_cast<double>(candidates)))
                             : call.k[search];
  if (k < 0 || k > candidates) {
    throw std::invalid_argument("`k` must be within [0, " + std::to_string(candidates) + "], got " + std::to_string(k));
  }
  return k;
}

std::int64_t after_tie(const SelectCall& call, const PruneChunk& chunk, std::uint32_t key, std::int64_t wanted) {
  const PruneTensor& tensor = call.tensors[static_cast<std::size_t>(chunk.tensor)];
  const PruneKernels& kernels = prune_kernels(call.isa);
  std::array<std::uint32_t, kPruneBlock> keys;
  for (std::int64_t at = chunk.begin; at < chunk.end; at += kPruneBlock) {
    const std::int64_t n = std::min(kPruneBlock, chunk.end - at);
    kernels.keys(tensor, call.kind, call.step, at, n, keys.data());
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      if (keys.at(i) == key && --wanted == 0) return tensor.offset + at + static_cast<std::int64_t>(i) + 1;
    }
  }
  throw std::logic_error("weights changed while they were being selected");
}

void select_smallest(const SelectCall& call, Cut* cuts) {
  if (call.tensors.empty()) return;
  const std::size_t searches = call.per_tensor ? call.tensors.size() : 1;
  if (!call.k.empty() && call.k.size() != searches) {
    throw std::invalid_argument("`k` must have " + std::to_string(searches) + " numbers, got " +
                                std::to_string(call.k.size()));
  }
  const std::vector<std::size_t> missed = select_by_bracket(call, cuts);
  if (missed.empty()) return;
  if (!call.per_tensor) {
    Selection(call).run(cuts);
    return;
  }
  SelectCall rest = call;
  rest.tensors.clear();
  rest.k.clear();
  for (const std::size_t t : missed) {
    rest.tensors.push_back(call.tensors[t]);
    if (!call.k.empty()) rest.k.push_back(call.k[t]);
  }
  std::vector<Cut> found(missed.size());
  Selection(rest).run(found.data());
  for (std::size_t i = 0; i < missed.size(); ++i) cuts[missed[i]] = found[i];
}

}  // namespace fluxcore
