#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ops/prune.hpp"
#include "ops/prune_kernels.hpp"

// Selection in one pass over the elements. A sample of the keys brackets the one that is sought; the pass counts the
// keys below the bracket and keeps those inside, of which there are few.
namespace fluxcore {

inline constexpr std::int64_t kSampleRun = 16;  // elements that are looked at side by side

// First elements of the runs that a sample of `count` elements looks at, ascending.
std::vector<std::int64_t> sample_places(std::int64_t count);

// As select_smallest, into one cut a tensor. Returns the searches that could not be bracketed, or whose key was outside
// the bracket after all; their tensors have no cut yet.
std::vector<std::size_t> select_by_bracket(const SelectCall& call, Cut* cuts);

// How many of `candidates` are to be chosen in a search. Throws std::invalid_argument if there are not so many.
std::int64_t wanted_of(const SelectCall& call, std::size_t search, std::int64_t candidates);

// Global index behind the `wanted`-th element of the chunk that has this key.
std::int64_t after_tie(const SelectCall& call, const PruneChunk& chunk, std::uint32_t key, std::int64_t wanted);

}  // namespace fluxcore
