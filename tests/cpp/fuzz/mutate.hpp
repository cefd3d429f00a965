#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fluxcore::data {

// What a mutated file is made to fit with, so that it gets past the check that would otherwise be the end of it.
struct Repair {
  bool layout = true;     // sections one behind another, as long as the number of chunks makes them
  bool checksums = true;  // CRC of chunks, sections, superblock and footer; root; length
};

// Makes a file fit with itself as far as `repair` says. A file too short for a superblock and a footer stays as it is.
void mend(std::vector<std::uint8_t>& file, const Repair& repair, std::size_t most_bytes);

}  // namespace fluxcore::data
