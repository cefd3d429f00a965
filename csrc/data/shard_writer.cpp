#include "data/shard_writer.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "data/crc32c.hpp"
#include "data/errors.hpp"

namespace fluxcore::data {
namespace {

void check_names(const ShardSpec& spec) {
  std::vector<std::string> seen;
  for (const ColumnSpec& column : spec.columns) {
    if (const std::string fault = fault_of_name(column.name); !fault.empty()) {
      throw std::invalid_argument("`" + column.name + "` cannot name a column: " + fault);
    }
    if (std::ranges::find(seen, column.name) != seen.end()) {
      throw std::invalid_argument("two columns are named `" + column.name + "`");
    }
    seen.push_back(column.name);
  }
  // NAMES, TOKENS, CHUNK_CRC and TOKEN_MASK take an entry each.
  if (spec.columns.size() > kMaxSections - 4) {
    throw std::invalid_argument("one file holds at most 124 columns, got " + std::to_string(spec.columns.size()) +
                                "\n\nAdd the others with `add_column` when the data set is written.");
  }
}

}  // namespace

ShardWriter::ShardWriter(const std::filesystem::path& path, ShardSpec spec)
    : spec_((check_names(spec), std::move(spec))), file_(path), columns_(spec_.columns.size()) {
  superblock_.file_kind = spec_.kind;
  superblock_.token_type = spec_.token_type;
  superblock_.uuid = spec_.uuid;
  superblock_.shard_number = spec_.shard_number;
  superblock_.chunk_tokens = spec_.chunk_tokens;
  superblock_.vocab_size = spec_.vocab_size;
  superblock_.tokenizer = spec_.tokenizer;
  superblock_.parent = spec_.parent;
  file_.append(std::as_bytes(std::span(&superblock_, 1)));  // the place; the contents are known in `finish`
}

void ShardWriter::append(std::uint64_t count, std::span<const std::byte> tokens, std::span<const std::byte> mask,
                         std::span<const std::span<const std::byte>> columns) {
  const bool shard = spec_.kind == FileKind::shard;
  const std::uint64_t chunk_bytes = shard ? spec_.chunk_tokens * size_of(spec_.token_type) : 0;
  const std::uint64_t chunk_mask = spec_.token_mask ? mask_bytes(spec_.chunk_tokens) : 0;
  bool sizes_match = tokens.size() == count * chunk_bytes && mask.size() == count * chunk_mask &&
                     columns.size() == spec_.columns.size();
  for (std::size_t c = 0; sizes_match && c < columns.size(); ++c) {
    sizes_match = columns[c].size() == count * size_of(spec_.columns[c].type);
  }
  if (!sizes_match) throw std::invalid_argument("sizes of tokens, mask and columns do not match the specification");

  file_.append(tokens);
  for (std::uint64_t i = 0; shard && i < count; ++i) {
    const std::uint32_t crc = crc32c(tokens.subspan(i * chunk_bytes, chunk_bytes));
    chunk_crcs_.push_back(crc32c(mask.subspan(i * chunk_mask, chunk_mask), crc));
  }
  mask_.insert(mask_.end(), mask.begin(), mask.end());
  for (std::size_t c = 0; c < columns.size(); ++c) {
    columns_[c].insert(columns_[c].end(), columns[c].begin(), columns[c].end());
  }
  chunks_ += count;
}

void ShardWriter::add_section(SectionKind kind, DataType type, std::uint16_t name, std::span<const std::byte> bytes) {
  const bool in_chunk_crc = kind == SectionKind::token_mask;
  superblock_.sections[superblock_.section_count++] = {.kind = kind,
                                                       .type = type,
                                                       .name = name,
                                                       .crc = in_chunk_crc ? 0 : crc32c(bytes),
                                                       .offset = file_.size(),
                                                       .length = bytes.size()};
  file_.append(bytes);
  file_.pad_to(kPage);
}

void ShardWriter::drop_full_valid_len() {
  for (std::size_t c = 0; c < spec_.columns.size(); ++c) {
    if (spec_.columns[c].name != "valid_len") continue;
    std::vector<std::uint32_t> lengths(chunks_);
    std::memcpy(lengths.data(), columns_[c].data(), columns_[c].size());
    if (std::ranges::any_of(lengths, [&](std::uint32_t n) { return n != spec_.chunk_tokens; })) return;
    columns_.erase(columns_.begin() + static_cast<std::ptrdiff_t>(c));
    spec_.columns.erase(spec_.columns.begin() + static_cast<std::ptrdiff_t>(c));
    return;
  }
}

ShardSummary ShardWriter::finish() {
  superblock_.chunk_count = chunks_;
  if (spec_.kind == FileKind::shard) {
    superblock_.sections[superblock_.section_count++] = {.kind = SectionKind::tokens,
                                                         .type = spec_.token_type,
                                                         .name = kNoName,
                                                         .crc = 0,
                                                         .offset = kPage,
                                                         .length = file_.size() - kPage};
    file_.pad_to(kPage);
    add_section(SectionKind::chunk_crc, DataType::u32, kNoName, std::as_bytes(std::span(chunk_crcs_)));
    drop_full_valid_len();
  }
  if (spec_.token_mask) add_section(SectionKind::token_mask, DataType::u8, kNoName, mask_);
  std::vector<std::string> names;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    if (spec_.columns[c].name == spec_.sort_column) superblock_.sort_name = static_cast<std::uint16_t>(c);
    add_section(SectionKind::column, spec_.columns[c].type, static_cast<std::uint16_t>(c), columns_[c]);
    names.push_back(spec_.columns[c].name);
  }
  add_section(SectionKind::names, DataType::u8, kNoName, encode_names(names));
  if (superblock_.sort_name != kNoName) {
    superblock_.sort_nan_last = 1;
    superblock_.sort_descending = spec_.sort_descending ? 1 : 0;
  }
  superblock_.crc = crc_of(superblock_);

  Footer footer;
  footer.file_length = file_.size() + kFooterBytes;
  footer.root = root_hash(superblock_, std::as_bytes(std::span(chunk_crcs_)));
  footer.crc = crc_of(footer);
  // What no reader would accept is the caller's mistake, and must not get as far as a file.
  try {
    check_layout(superblock_, footer, footer.file_length, file_.path());
    check_columns(superblock_, names, file_.path());
  } catch (const CorruptShard& error) {
    throw std::invalid_argument(std::string("not written: ") + error.what());
  }
  file_.write_at(0, std::as_bytes(std::span(&superblock_, 1)));
  file_.append(std::as_bytes(std::span(&footer, 1)));
  file_.commit();
  return {.bytes = footer.file_length, .chunks = chunks_, .root = footer.root};
}

}  // namespace fluxcore::data
