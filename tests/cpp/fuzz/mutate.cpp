// Mutations for libFuzzer that leave a file whose check sums are right: random bytes alone hardly get past the first.
#include "mutate.hpp"

#include <algorithm>
#include <cstring>
#include <random>
#include <span>

#include "data/crc32c.hpp"
#include "data/layout.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace fluxcore::data {
namespace {

constexpr std::size_t kShortest = kPage + kFooterBytes;

std::span<std::uint8_t> part(std::vector<std::uint8_t>& file, const Section& section) {
  if (section.offset > file.size()) return {};
  return std::span(file).subspan(section.offset, std::min<std::uint64_t>(section.length, file.size() - section.offset));
}

// Bytes that the format has a chunk take in this section; 0 where it does not say.
std::uint64_t chunk_bytes(const Superblock& block, const Section& section) {
  switch (section.kind) {
    case SectionKind::tokens:
      return size_of(block.token_type) * block.chunk_tokens;
    case SectionKind::chunk_crc:
    case SectionKind::column:
      return size_of(section.type);
    case SectionKind::token_mask:
      return mask_bytes(block.chunk_tokens);
    default:
      return 0;
  }
}

std::size_t used_sections(const Superblock& block) { return std::min<std::size_t>(block.section_count, kMaxSections); }

// Lays the sections out anew, each with the bytes that it had as far as they go; false where that is too much.
bool lay_out(std::vector<std::uint8_t>& file, Superblock& block, std::size_t most_bytes) {
  std::vector<std::uint8_t> fresh(kPage);
  for (std::size_t s = 0; s < used_sections(block); ++s) {
    Section& section = block.sections[s];
    const std::uint64_t bytes = chunk_bytes(block, section);
    std::uint64_t length = section.length;
    if (bytes > 0 && __builtin_mul_overflow(bytes, block.chunk_count, &length)) return false;
    if (length > most_bytes) return false;
    const std::span<const std::uint8_t> before = part(file, section);
    section.offset = fresh.size();
    section.length = length;
    fresh.insert(fresh.end(), before.begin(), before.begin() + std::ptrdiff_t(std::min(length, before.size())));
    fresh.resize(round_up_to_page(section.offset + length));
    if (fresh.size() + kFooterBytes > most_bytes) return false;
  }
  fresh.insert(fresh.end(), file.end() - std::ptrdiff_t(kFooterBytes), file.end());
  file = std::move(fresh);
  return true;
}

std::span<const std::byte> as_bytes(std::span<const std::uint8_t> values) { return std::as_bytes(values); }

void sum_chunks(std::vector<std::uint8_t>& file, const Superblock& block) {
  std::span<std::uint8_t> tokens;
  std::span<std::uint8_t> mask;
  std::span<std::uint8_t> crcs;
  for (std::size_t s = 0; s < used_sections(block); ++s) {
    const Section& section = block.sections[s];
    if (section.kind == SectionKind::tokens) tokens = part(file, section);
    if (section.kind == SectionKind::token_mask) mask = part(file, section);
    if (section.kind == SectionKind::chunk_crc) crcs = part(file, section);
  }
  const std::uint64_t chunks = std::min<std::uint64_t>(block.chunk_count, crcs.size() / 4);
  if (chunks == 0) return;
  const std::size_t token_bytes = tokens.size() / chunks;
  const std::size_t bits = mask.size() / chunks;
  for (std::size_t c = 0; c < chunks; ++c) {
    const std::uint32_t crc =
        crc32c(as_bytes(mask.subspan(c * bits, bits)), crc32c(as_bytes(tokens.subspan(c * token_bytes, token_bytes))));
    std::memcpy(crcs.data() + 4 * c, &crc, sizeof crc);
  }
}

void sum_all(std::vector<std::uint8_t>& file, Superblock& block) {
  Footer footer;
  std::memcpy(&footer, file.data() + file.size() - sizeof footer, sizeof footer);
  sum_chunks(file, block);
  std::span<const std::uint8_t> chunk_crcs;
  for (std::size_t s = 0; s < used_sections(block); ++s) {
    Section& section = block.sections[s];
    const bool by_chunk = section.kind == SectionKind::tokens || section.kind == SectionKind::token_mask;
    section.crc = by_chunk ? 0 : crc32c(as_bytes(part(file, section)));
    if (section.kind == SectionKind::chunk_crc) chunk_crcs = part(file, section);
  }
  block.crc = crc_of(block);
  footer.file_length = file.size();
  footer.root = root_hash(block, as_bytes(chunk_crcs));
  footer.crc = crc_of(footer);
  std::memcpy(file.data() + file.size() - sizeof footer, &footer, sizeof footer);
}

// Where a mutation sets in: a field of the superblock, the bytes of a section, or anywhere.
std::span<std::uint8_t> choose_part(std::vector<std::uint8_t>& file, std::minstd_rand& random) {
  if (file.size() < kShortest || random() % 8 == 0) return file;
  Superblock block;
  std::memcpy(&block, file.data(), sizeof block);
  const std::size_t used = used_sections(block);
  if (used > 0 && random() % 2 == 0) {
    const std::size_t section = random() % used;
    if (random() % 2 == 0) return part(file, block.sections[section]);
    return std::span(file).subspan(offsetof(Superblock, sections) + section * sizeof(Section), sizeof(Section));
  }
  constexpr std::size_t kFields = offsetof(Superblock, reserved);
  return std::span(file).first(kFields);
}

}  // namespace

void mend(std::vector<std::uint8_t>& file, const Repair& repair, std::size_t most_bytes) {
  if (file.size() < kShortest) return;
  Superblock block;
  std::memcpy(&block, file.data(), sizeof block);
  if (repair.layout) {
    Superblock moved = block;
    if (lay_out(file, moved, most_bytes)) block = moved;
  }
  if (repair.checksums) sum_all(file, block);
  std::memcpy(file.data(), &block, sizeof block);
}

}  // namespace fluxcore::data

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned int seed) {
  using namespace fluxcore::data;
  std::minstd_rand random(seed);
  std::vector<std::uint8_t> file(data, data + size);
  for (unsigned changes = 1 + random() % 3; changes > 0; --changes) {
    const std::span<std::uint8_t> part = choose_part(file, random);
    if (part.data() == file.data() && part.size() == file.size()) {
      file.resize(most);
      file.resize(LLVMFuzzerMutate(file.data(), size, most));
    } else if (!part.empty()) {
      LLVMFuzzerMutate(part.data(), part.size(), part.size());
    }
  }
  mend(file, {.layout = random() % 8 != 0, .checksums = random() % 16 != 0}, most);
  size = std::min(file.size(), most);
  std::copy_n(file.begin(), size, data);
  return size;
}
