#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file.hpp"
#include "data/layout.hpp"

namespace fluxcore::data {

struct ColumnSpec {
  std::string name;
  DataType type = DataType::none;
};

struct ShardSpec {
  FileKind kind = FileKind::shard;
  TokenType token_type = TokenType::u16;
  std::uint32_t chunk_tokens = 0;
  std::uint64_t vocab_size = 0;
  Bytes16 uuid = {};
  std::uint32_t shard_number = 0;
  Bytes16 tokenizer = {};
  Bytes16 parent = {};
  std::vector<ColumnSpec>
      columns;  // a shard's must hold every required one; `valid_len` is left out where all are full
  std::optional<std::string> sort_column;
  bool sort_descending = false;
  bool token_mask = false;
};

struct ShardSummary {
  std::uint64_t bytes = 0;
  std::uint64_t chunks = 0;
  Bytes16 root = {};
};

// Writes one shard or sidecar file. Nothing stands under `path` before `finish` has returned.
class ShardWriter {
 public:
  // Throws std::invalid_argument for names that cannot be, FileError.
  ShardWriter(const std::filesystem::path& path, ShardSpec spec);

  // `count` chunks. `tokens` [count, chunk_tokens] of the token type (empty for a sidecar), `mask` [count, mask_bytes]
  // where the file has one, `columns` one span of `count` items for each column of the specification, in its order.
  // The values are the caller's to check.
  void append(std::uint64_t count, std::span<const std::byte> tokens, std::span<const std::byte> mask,
              std::span<const std::span<const std::byte>> columns);

  // Writes what stands behind the tokens, then publishes the file. At least one chunk must have been appended.
  // Throws std::invalid_argument for a file that no reader would accept, FileError.
  ShardSummary finish();
  // Takes the temporary file away; the writer is of no use any more.
  void discard() noexcept { file_.discard(); }

  [[nodiscard]] std::uint64_t chunk_count() const noexcept { return chunks_; }

 private:
  void add_section(SectionKind kind, DataType type, std::uint16_t name, std::span<const std::byte> bytes);
  void drop_full_valid_len();

  ShardSpec spec_;
  AtomicFile file_;
  Superblock superblock_;
  std::vector<std::vector<std::byte>> columns_;
  std::vector<std::byte> mask_;
  std::vector<std::uint32_t> chunk_crcs_;
  std::uint64_t chunks_ = 0;
};

}  // namespace fluxcore::data
