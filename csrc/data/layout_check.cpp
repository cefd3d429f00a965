#include <algorithm>
#include <string>

#include "data/errors.hpp"
#include "data/layout.hpp"

namespace fluxcore::data {
namespace {

template <class Range>
bool all_zero(const Range& bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::uint8_t b) { return b == 0; });
}

// Reports the first rule that a file breaks.
class Checker {
 public:
  Checker(const Superblock& superblock, const std::filesystem::path& path) : block_(superblock), path_(path) {}

  void identity() const {
    need(block_.magic == kShardMagic, "it does not begin as a shard does");
    need(block_.crc == crc_of(block_), "the CRC of the superblock does not match");
    if (block_.major != 1) {
      throw UnsupportedFormat("`" + path_.string() + "` has format " + std::to_string(block_.major) + "." +
                              std::to_string(block_.minor) +
                              ", this version reads 1.x\n\nUpgrade fluxcore to read it.");
    }
    if (block_.incompatible != 0) {
      throw UnsupportedFormat("`" + path_.string() + "` uses features that this version does not know (flags " +
                              std::to_string(block_.incompatible) + ")\n\nUpgrade fluxcore to read it.");
    }
  }

  void footer(const Footer& footer, std::uint64_t file_length) const {
    need(footer.magic == kFooterMagic, "it does not end as a shard does; it may have been cut short");
    need(footer.crc == crc_of(footer), "the CRC of the footer does not match");
    need(footer.file_length == file_length,
         "it has " + std::to_string(file_length) + " bytes, the footer says " + std::to_string(footer.file_length));
    need(all_zero(footer.reserved), "reserved bytes of the footer are not zero");
  }

  void fields() const {
    const bool sidecar = block_.file_kind == FileKind::sidecar;
    need(sidecar || block_.file_kind == FileKind::shard, "unknown file kind");
    const bool token_type =
        block_.token_type == DataType::u8 || block_.token_type == DataType::u16 || block_.token_type == DataType::u32;
    need(token_type, "unknown token type");
    need(block_.chunk_tokens >= 1 && block_.chunk_tokens <= kMaxChunkTokens, "chunk length out of range");
    const std::uint64_t ids = std::uint64_t{1} << (8 * size_of(block_.token_type));
    need(block_.vocab_size >= 1 && block_.vocab_size <= std::min(ids, kMaxVocabulary),
         "the vocabulary does not fit the token type");
    need(block_.chunk_count >= 1, "it has no chunk");
    need(sidecar || all_zero(block_.parent), "a shard names a parent");
    need(block_.sort_descending <= 1 && block_.sort_nan_last == (block_.sort_name == kNoName ? 0 : 1),
         "unknown sort descriptor");
    need(block_.sort_name != kNoName || block_.sort_descending == 0, "unknown sort descriptor");
    need(!sidecar || block_.sort_name == kNoName, "a sidecar declares a sort order");
    need(all_zero(block_.reserved) && all_zero(block_.reserved_end), "reserved bytes of the superblock are not zero");
  }

  void sections(std::uint64_t file_length) const {
    need(block_.section_count >= 1 && block_.section_count <= kMaxSections, "section count out of range");
    std::array<int, 6> seen = {};
    std::uint64_t end = kPage;  // a multiple of the page, and never past the file
    const std::uint64_t limit = file_length - kFooterBytes;
    for (std::size_t s = 0; s < kMaxSections; ++s) {
      const Section& section = block_.sections[s];
      if (s >= block_.section_count) {
        need(section.kind == SectionKind{} && section.type == DataType{} && section.name == 0 && section.crc == 0 &&
                 section.offset == 0 && section.length == 0,
             "an unused entry of the section table is not zero");
        continue;
      }
      need(section.offset == end, "section " + std::to_string(s) + " does not begin where the one before it ends");
      need(section.length <= limit - end, "section " + std::to_string(s) + " runs past the end of the file");
      length_of(section, s);
      if (static_cast<std::size_t>(section.kind) < seen.size()) ++seen[static_cast<std::size_t>(section.kind)];
      end = round_up_to_page(section.offset + section.length);
      need(end <= limit, "section " + std::to_string(s) + " runs past the end of the file");
    }
    need(end == limit, "the sections do not cover the file");
    const int once = block_.file_kind == FileKind::shard ? 1 : 0;
    const auto count = [&](SectionKind kind) { return seen[static_cast<std::size_t>(kind)]; };
    need(count(SectionKind::names) == 1, "it must have one NAMES section");
    need(count(SectionKind::tokens) == once, "it must have one TOKENS section, a sidecar none");
    need(count(SectionKind::chunk_crc) == once, "it must have one CHUNK_CRC section, a sidecar none");
    need(count(SectionKind::token_mask) <= once, "it can have one TOKEN_MASK section, a sidecar none");
  }

  void columns(const std::vector<std::string>& names) const {
    std::vector<int> used(names.size(), 0);
    for (std::size_t s = 0; s < block_.section_count; ++s) {
      const Section& section = block_.sections[s];
      if (section.kind != SectionKind::column) continue;
      need(section.name < names.size(), "section " + std::to_string(s) + " has no name");
      ++used[section.name];
      const DataType required = required_type(names[section.name]);
      need(required == DataType::none || (required == section.type && block_.file_kind == FileKind::shard),
           "column `" + names[section.name] + "` must be " + std::string(name_of(required)) + " and in the shard");
    }
    need(std::ranges::all_of(used, [](int count) { return count == 1; }), "names and columns do not match one to one");
    need(block_.sort_name == kNoName || block_.sort_name < names.size(), "the sort column has no name");
    if (block_.file_kind == FileKind::sidecar) return;
    for (const char* name : {"source", "doc_id", "doc_offset", "next_token", "original_index"}) {
      need(std::ranges::find(names, name) != names.end(), std::string("it has no column `") + name + "`");
    }
  }

 private:
  void need(bool holds, const std::string& otherwise) const {
    if (!holds) throw CorruptShard(path_, otherwise);
  }

  void length_of(const Section& section, std::size_t s) const {
    std::uint64_t item = 0;  // bytes a chunk
    switch (section.kind) {
      case SectionKind::names:
        need(section.length <= kMaxSections * (kMaxNameBytes + 1), "the NAMES section is too long");
        need(section.type == DataType::u8 && section.name == kNoName, "wrong type of the NAMES section");
        return;
      case SectionKind::tokens:
        item = size_of(section.type) * std::uint64_t{block_.chunk_tokens};
        need(section.type == block_.token_type && section.crc == 0 && section.name == kNoName,
             "wrong type of the TOKENS section");
        break;
      case SectionKind::chunk_crc:
        item = sizeof(std::uint32_t);
        need(section.type == DataType::u32 && section.name == kNoName, "wrong type of the CHUNK_CRC section");
        break;
      case SectionKind::column:
        item = size_of(section.type);
        need(item != 0, "unknown type of section " + std::to_string(s));
        break;
      case SectionKind::token_mask:
        item = mask_bytes(block_.chunk_tokens);
        need(section.type == DataType::u8 && section.crc == 0 && section.name == kNoName,
             "wrong type of the TOKEN_MASK section");
        break;
      default:
        return;  // a kind of a later minor version; its length is its own
    }
    std::uint64_t expected = 0;
    const bool fits = !__builtin_mul_overflow(item, block_.chunk_count, &expected);
    need(fits && section.length == expected, "section " + std::to_string(s) + " does not fit the number of chunks");
  }

  const Superblock& block_;
  const std::filesystem::path& path_;
};

}  // namespace

void check_layout(const Superblock& superblock, const Footer& footer, std::uint64_t file_length,
                  const std::filesystem::path& path) {
  const Checker checker(superblock, path);
  checker.identity();
  checker.footer(footer, file_length);
  checker.fields();
  checker.sections(file_length);
}

void check_columns(const Superblock& superblock, const std::vector<std::string>& names,
                   const std::filesystem::path& path) {
  Checker(superblock, path).columns(names);
}

}  // namespace fluxcore::data
