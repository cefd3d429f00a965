#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/layout.hpp"
#include "data/shard_set.hpp"
#include "data/shard_writer.hpp"

namespace fluxcore::data {

// A folder that goes away with its test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "fluxcore-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot make a folder for the test");
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(TemporaryFolder&&) = delete;
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline constexpr std::uint32_t kTinyTokens = 8;
inline constexpr std::uint64_t kTinyChunks = 3;
inline constexpr std::uint64_t kTinyVocabulary = 500;

inline ShardSpec tiny_spec() {
  ShardSpec spec;
  spec.chunk_tokens = kTinyTokens;
  spec.vocab_size = kTinyVocabulary;
  spec.uuid = {1, 2, 3};
  spec.columns = {{"source", DataType::u16},      {"doc_id", DataType::u64},    {"doc_offset", DataType::u32},
                  {"next_token", DataType::u32},  {"valid_len", DataType::u32}, {"original_index", DataType::u64},
                  {"entropy_mean", DataType::f32}};
  return spec;
}

template <class T>
std::span<const std::byte> bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

// Three chunks of u16: token t of chunk c is 100 c + t + 1; the last chunk is padded behind 5 tokens.
inline ShardSummary write_tiny(const std::filesystem::path& path, const ShardSpec& spec = tiny_spec()) {
  std::vector<std::uint16_t> tokens(kTinyChunks * kTinyTokens);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<std::uint16_t>(100 * (i / kTinyTokens) + i % kTinyTokens + 1);
  }
  std::fill(tokens.end() - 3, tokens.end(), std::uint16_t{0});
  const std::vector<std::uint16_t> source(kTinyChunks, 0);
  const std::vector<std::uint64_t> doc_id = {7, 8, 9};
  const std::vector<std::uint32_t> doc_offset(kTinyChunks, 0);
  const std::vector<std::uint32_t> next_token = {42, kNoToken, kNoToken};
  const std::vector<std::uint32_t> valid_len = {kTinyTokens, kTinyTokens, 5};
  const std::vector<std::uint64_t> original_index = {0, 1, 2};
  const std::vector<float> entropy = {1.0F, 2.0F, 3.0F};
  const std::vector<std::uint8_t> mask = {0xFF, 0x0F, 0xFF};
  const std::vector<std::span<const std::byte>> columns = {bytes(source),     bytes(doc_id),    bytes(doc_offset),
                                                           bytes(next_token), bytes(valid_len), bytes(original_index),
                                                           bytes(entropy)};
  ShardWriter writer(path, spec);
  writer.append(kTinyChunks, bytes(tokens), spec.token_mask ? bytes(mask) : std::span<const std::byte>(),
                std::span(columns).first(spec.columns.size()));
  return writer.finish();
}

inline std::unique_ptr<const ShardSet> open_tiny(const TemporaryFolder& folder, const ShardSummary& summary) {
  SetSpec spec;
  spec.uuid = {1, 2, 3};
  spec.chunk_tokens = kTinyTokens;
  spec.vocab_size = kTinyVocabulary;
  return std::make_unique<const ShardSet>(
      folder.path(), spec,
      std::vector<ShardEntry>{
          {.name = "shard", .bytes = summary.bytes, .chunks = summary.chunks, .root = summary.root}});
}

inline std::vector<char> read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const std::filesystem::path& path, std::span<const char> content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
}

}  // namespace fluxcore::data
