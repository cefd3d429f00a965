#include "ops/prune_bracket.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "common/parallel.hpp"

namespace fluxcore {
namespace {

constexpr std::int64_t kSmall = 1 << 16;     // elements, of which all keys are kept
constexpr std::int64_t kMostRuns = 4096;     // of a sample
constexpr std::size_t kRunsAPart = 256;      // of what a thread looks at in one go
constexpr std::int64_t kElementsARun = 512;  // of the whole, for each run of the sample
constexpr double kFewCandidates = 1024.0;    // in the sample: all keys are kept
constexpr double kDeviations = 6.0;          // of the sample's rank, on either side
constexpr double kMostInside = 0.25;         // of the elements
constexpr std::size_t kBins = 4096;
constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();

using Keys = std::vector<std::uint32_t>;

// Both ends belong to it.
struct Bracket {
  std::uint32_t low = 0;
  std::uint32_t high = kMaxKey;
  bool found = true;
};

struct Ranked {
  std::uint32_t key;
  std::int64_t rank;  // of the key sought, from 1, among those equal to it
};

// How many keys of the lists are in each bin of 2^shift keys from `low` on, and beyond `width` in none.
std::array<std::int64_t, kBins> count_bins(std::span<const Keys> lists, std::uint32_t low, std::uint32_t width,
                                           int shift) {
  // Neighbours are often in one bin: four tables, so that an addition need not wait for the one before it.
  std::array<std::array<std::uint32_t, kBins + 1>, 4> tables{};
  const auto bin_of = [=](std::uint32_t key) {
    return key - low <= width ? static_cast<std::size_t>((key - low) >> shift) : kBins;
  };
  for (const Keys& keys : lists) {
    const std::span<const std::uint32_t> rest(keys.data() + keys.size() / 4 * 4, keys.size() % 4);
    for (const std::uint32_t* four = keys.data(); four != rest.data(); four += 4) {
      for (std::size_t i = 0; i < 4; ++i) ++tables[i][bin_of(four[i])];
    }
    for (const std::uint32_t key : rest) ++tables[0][bin_of(key)];
  }
  std::array<std::int64_t, kBins> counts{};
  for (const auto& table : tables) {
    for (std::size_t bin = 0; bin < kBins; ++bin) counts[bin] += table[bin];
  }
  return counts;
}

// The key of rank `rank`, from 1, of lists whose keys all lie within the bracket: by counting, 12 bits at a time.
Ranked key_of_rank(std::span<const Keys> lists, std::int64_t rank, Bracket within) {
  while (within.low < within.high) {
    const std::uint32_t width = within.high - within.low;
    int shift = 0;
    while (width >> shift >= kBins) ++shift;
    const std::array<std::int64_t, kBins> counts = count_bins(lists, within.low, width, shift);
    std::uint32_t bin = 0;
    for (; rank > counts.at(bin); ++bin) rank -= counts.at(bin);
    within.low += bin << shift;
    within.high = std::min(within.high, within.low + ((1U << shift) - 1U));
  }
  return {.key = within.low, .rank = rank};
}

std::size_t key_count(std::span<const Keys> lists) {
  std::size_t count = 0;
  for (const Keys& keys : lists) count += keys.size();
  return count;
}

class BracketSelection {
 public:
  BracketSelection(const SelectCall& call, Cut* cuts)
      : call_(call), kernels_(prune_kernels(call.isa)), chunks_(prune_chunks(call.tensors)), cuts_(cuts) {}

  std::vector<std::size_t> run() {
    const std::size_t searches = call_.per_tensor ? call_.tensors.size() : 1;
    brackets_.resize(searches);
    parallel_for(static_cast<std::int64_t>(searches), 1, call_.threads, [&](std::int64_t begin, std::int64_t end) {
      for (auto s = static_cast<std::size_t>(begin); s < static_cast<std::size_t>(end); ++s) brackets_[s] = bracket(s);
    });
    surveys_.resize(chunks_.size());
    inside_.resize(chunks_.size());
    parallel_for(static_cast<std::int64_t>(chunks_.size()), 1, call_.threads,
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t c = begin; c < end; ++c) survey(static_cast<std::size_t>(c));
                 });
    std::vector<std::size_t> missed;
    for (std::size_t s = 0, c = 0; s < searches; ++s) {
      const std::size_t first = c;
      while (c < chunks_.size() && search_of(chunks_[c]) == s) ++c;
      if (!finish(s, first, c)) missed.push_back(s);
    }
    return missed;
  }

 private:
  [[nodiscard]] std::size_t search_of(const PruneChunk& chunk) const {
    return call_.per_tensor ? static_cast<std::size_t>(chunk.tensor) : 0;
  }

  [[nodiscard]] std::span<const PruneTensor> tensors_of(std::size_t search) const {
    const std::span<const PruneTensor> all = call_.tensors;
    return call_.per_tensor ? all.subspan(search, 1) : all;
  }

  [[nodiscard]] Bracket bracket(std::size_t search) const {
    std::int64_t elements = 0;
    for (const PruneTensor& tensor : tensors_of(search)) elements += tensor.count;
    if (elements <= kSmall) return {};
    const std::vector<Keys> sample = sampled_keys(tensors_of(search), elements);
    const auto n = static_cast<double>(key_count(sample));
    const auto looked_at = static_cast<double>(kSampleRun) * static_cast<double>(sample_places(elements).size());
    if (n < kFewCandidates && n <= kMostInside * looked_at) return {};
    // A number given is of as many candidates as the sample makes one expect.
    const double candidates = static_cast<double>(elements) * n / looked_at;
    const double share = call_.k.empty() ? call_.fraction : static_cast<double>(call_.k[search]) / candidates;
    const double rank = std::clamp(share, 0.0, 1.0) * n;
    const double margin = kDeviations * std::sqrt(std::max(0.0, rank * (1.0 - rank / n))) + 32.0;
    Bracket found;
    if (rank - margin > 1.0) found.low = key_of_rank(sample, static_cast<std::int64_t>(rank - margin), {}).key;
    if (rank + margin < n) found.high = key_of_rank(sample, static_cast<std::int64_t>(rank + margin), {}).key;
    std::uint32_t inside = 0;
    for (const Keys& keys : sample) {
      for (const std::uint32_t key : keys) inside += key - found.low <= found.high - found.low ? 1U : 0U;
    }
    found.found = static_cast<double>(inside) <= kMostInside * looked_at;
    return found;
  }

  // In parts, for each run waits for the memory.
  [[nodiscard]] std::vector<Keys> sampled_keys(std::span<const PruneTensor> tensors, std::int64_t elements) const {
    const std::vector<std::int64_t> places = sample_places(elements);
    std::vector<Keys> parts((places.size() + kRunsAPart - 1) / kRunsAPart);
    parallel_for(static_cast<std::int64_t>(parts.size()), 1, call_.threads, [&](std::int64_t begin, std::int64_t end) {
      for (auto p = static_cast<std::size_t>(begin); p < static_cast<std::size_t>(end); ++p) {
        const std::size_t first = p * kRunsAPart;
        parts[p] = keys_at(tensors, std::span(places).subspan(first, std::min(kRunsAPart, places.size() - first)));
      }
    });
    return parts;
  }

  // Of runs at ascending places among the elements of all tensors.
  [[nodiscard]] Keys keys_at(std::span<const PruneTensor> tensors, std::span<const std::int64_t> places) const {
    Keys sample;
    sample.reserve(places.size() * kSampleRun);
    std::array<std::uint32_t, kSampleRun> keys;
    std::size_t t = 0;
    std::int64_t before = 0;  // elements of the tensors before t
    for (const std::int64_t place : places) {
      while (place - before >= tensors[t].count) before += tensors[t++].count;
      const std::int64_t n = std::min(kSampleRun, tensors[t].count - (place - before));
      kernels_.keys(tensors[t], call_.kind, call_.step, place - before, n, keys.data());
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
        if (keys.at(i) <= kMaxKey) sample.push_back(keys.at(i));
      }
    }
    return sample;
  }

  void survey(std::size_t c) {
    const PruneChunk& chunk = chunks_[c];
    const PruneTensor& tensor = call_.tensors[static_cast<std::size_t>(chunk.tensor)];
    const Bracket& within = brackets_[search_of(chunk)];
    if (!within.found) return;
    std::array<std::uint32_t, kPruneBlock> keys;
    std::array<std::uint32_t, kPruneBlock + 16> kept;
    PruneSurvey total{};
    for (std::int64_t at = chunk.begin; at < chunk.end; at += kPruneBlock) {
      const std::int64_t n = std::min(kPruneBlock, chunk.end - at);
      PruneSurvey here{};
      if (are_bfloat16_magnitudes(tensor, call_.kind)) {
        here = kernels_.survey_bfloat16(tensor, at, n, within.low, within.high, kept.data());
      } else {
        kernels_.keys(tensor, call_.kind, call_.step, at, n, keys.data());
        here = kernels_.survey(keys.data(), n, within.low, within.high, kept.data());
      }
      total.candidates += here.candidates;
      total.below += here.below;
      inside_[c].insert(inside_[c].end(), kept.begin(), kept.begin() + here.inside);
    }
    surveys_[c] = total;
  }

  // Writes the cuts of a search, whose chunks are [first, last). False if its key is not inside the bracket.
  bool finish(std::size_t search, std::size_t first, std::size_t last) {
    if (!brackets_[search].found) return false;
    std::int64_t candidates = 0;
    std::int64_t below = 0;
    std::int64_t inside = 0;
    for (std::size_t c = first; c < last; ++c) {
      candidates += surveys_[c].candidates;
      below += surveys_[c].below;
      inside += static_cast<std::int64_t>(inside_[c].size());
    }
    const std::int64_t wanted = wanted_of(call_, search, candidates);
    if (wanted > 0 && (wanted <= below || wanted > below + inside)) return false;
    const std::size_t end = call_.per_tensor ? search + 1 : call_.tensors.size();
    if (wanted == 0) {
      std::fill(cuts_ + (call_.per_tensor ? search : 0), cuts_ + end, Cut{.key = 0, .index = 0});
      return true;
    }
    const std::span<const Keys> lists(inside_.data() + first, last - first);
    const Ranked sought = key_of_rank(lists, wanted - below, brackets_[search]);
    std::fill(cuts_ + (call_.per_tensor ? search : 0), cuts_ + end, Cut{.key = sought.key, .index = kAll});
    if (call_.ties) cut_ties(sought, first, last, end);
    return true;
  }

  // Of elements with the key of the cut, the first `rank` are chosen.
  void cut_ties(Ranked sought, std::size_t first, std::size_t last, std::size_t end) {
    std::int64_t left = sought.rank;
    for (std::size_t c = first; c < last; ++c) {
      const std::int64_t here = std::ranges::count(inside_[c], sought.key);
      if (here < left) {
        left -= here;
        continue;
      }
      const auto t = static_cast<std::size_t>(chunks_[c].tensor);
      cuts_[t].index = after_tie(call_, chunks_[c], sought.key, left);
      for (std::size_t later = t + 1; later < end; ++later) cuts_[later].index = 0;
      return;
    }
  }

  const SelectCall& call_;
  const PruneKernels& kernels_;
  const std::vector<PruneChunk> chunks_;
  Cut* const cuts_;
  std::vector<Bracket> brackets_;     // one a search
  std::vector<PruneSurvey> surveys_;  // one a chunk
  std::vector<Keys> inside_;          // of each chunk, in the order of the elements
};

}  // namespace

std::vector<std::int64_t> sample_places(std::int64_t count) {
  const std::int64_t runs = std::min({kMostRuns, count / kElementsARun + 1, count / kSampleRun});
  std::vector<std::int64_t> places;
  const double distance =
      static_cast<double>(count - kSampleRun) / static_cast<double>(std::max<std::int64_t>(1, runs));
  for (std::int64_t run = 0; run < runs; ++run) {
    // Not evenly, or a length of rows could agree with it: the golden ratio's multiples fall everywhere alike.
    const double turns = static_cast<double>(run) * 0.6180339887498949;
    places.push_back(static_cast<std::int64_t>((static_cast<double>(run) + turns - std::floor(turns)) * distance));
  }
  return places;
}

std::vector<std::size_t> select_by_bracket(const SelectCall& call, Cut* cuts) {
  return BracketSelection(call, cuts).run();
}

}  // namespace fluxcore
