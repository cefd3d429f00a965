#pragma once

#include <cstdint>
#include <span>

namespace fluxcore::data {

// Reorders `permutation` so that keys[permutation[i]] does not fall; entries with equal keys keep their places, so a
// sort by several keys is one call a key, the least significant first. Digits that are alike in all keys cost no pass.
// Every entry of `permutation` must be an index into `keys`. Takes two more arrays of 16 bytes an entry.
void radix_argsort(std::span<const uint64_t> keys, std::span<uint64_t> permutation);

}  // namespace fluxcore::data
