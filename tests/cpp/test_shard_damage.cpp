#include <doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/errors.hpp"
#include "shard_fixture.hpp"

using namespace fluxcore::data;

namespace {

// Whether opening or verifying the shard throws one of the two errors that damage may cause.
bool is_seen(const TemporaryFolder& folder, const ShardSummary& summary) {
  try {
    open_tiny(folder, summary)->verify_shard(0);
  } catch (const CorruptShard&) {
    return true;
  }
  return false;
}

// The shard with its superblock changed and every check sum made to fit: what a hostile writer would do.
void forge(const std::filesystem::path& path, ShardSummary& summary, const std::function<void(Superblock&)>& change) {
  std::vector<char> content = read_file(path);
  Superblock block;
  Footer footer;
  std::memcpy(&block, content.data(), sizeof block);
  std::memcpy(&footer, content.data() + content.size() - sizeof footer, sizeof footer);
  const Section crcs = block.sections[1];
  REQUIRE(crcs.kind == SectionKind::chunk_crc);
  change(block);
  block.crc = crc_of(block);
  footer.root = root_hash(block, std::as_bytes(std::span(content)).subspan(crcs.offset, crcs.length));
  footer.crc = crc_of(footer);
  summary.root = footer.root;
  std::memcpy(content.data(), &block, sizeof block);
  std::memcpy(content.data() + content.size() - sizeof footer, &footer, sizeof footer);
  write_file(path, content);
}

}  // namespace

TEST_CASE("a sound shard verifies") {
  const TemporaryFolder folder;
  const ShardSummary summary = write_tiny(folder / "shard");
  CHECK_FALSE(is_seen(folder, summary));
}

TEST_CASE("a shard cut at any byte, or with bytes behind it, is seen") {
  const TemporaryFolder folder;
  const ShardSummary summary = write_tiny(folder / "shard");
  const std::vector<char> content = read_file(folder / "shard");
  for (std::size_t size = content.size(); size-- > 0;) {
    std::filesystem::resize_file(folder / "shard", size);
    if (!is_seen(folder, summary)) FAIL("cut at byte " << size);
  }
  write_file(folder / "shard", content);
  std::filesystem::resize_file(folder / "shard", content.size() + 1);
  CHECK(is_seen(folder, summary));
}

TEST_CASE("every flipped bit is seen") {
  const TemporaryFolder folder;
  const ShardSummary summary = write_tiny(folder / "shard");
  const std::vector<char> content = read_file(folder / "shard");
  const Superblock block = open_tiny(folder, summary)->shard(0).superblock();
  const int fd = ::open((folder / "shard").c_str(), O_WRONLY);
  REQUIRE(fd >= 0);
  for (std::size_t at = 0; at < content.size(); ++at) {
    // All bits of what carries information; of the padding, which is compared with zero, one bit a byte.
    bool padding = at >= kPage && at < content.size() - kFooterBytes;
    for (const Section& section : block.sections) {
      if (at >= section.offset && at < section.offset + section.length) padding = false;
    }
    for (unsigned bit = padding ? at % 8 : 0; bit < (padding ? at % 8 + 1 : 8); ++bit) {
      const char flipped = static_cast<char>(content[at] ^ (1 << bit));
      REQUIRE(::pwrite(fd, &flipped, 1, static_cast<off_t>(at)) == 1);
      if (!is_seen(folder, summary)) FAIL("bit " << bit << " of byte " << at);
    }
    REQUIRE(::pwrite(fd, &content[at], 1, static_cast<off_t>(at)) == 1);
  }
  ::close(fd);
  CHECK_FALSE(is_seen(folder, summary));
}

TEST_CASE("hostile superblocks are refused") {
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  const std::vector<std::pair<const char*, std::function<void(Superblock&)>>> forgeries = {
      {"chunk count whose product overflows", [](Superblock& b) { b.chunk_count = (kHuge / 16) + 2; }},
      {"no chunk", [](Superblock& b) { b.chunk_count = 0; }},
      {"one chunk more", [](Superblock& b) { b.chunk_count += 1; }},
      {"chunk length 0", [](Superblock& b) { b.chunk_tokens = 0; }},
      {"huge chunk length", [](Superblock& b) { b.chunk_tokens = 0xFFFFFFFF; }},
      {"vocabulary 0", [](Superblock& b) { b.vocab_size = 0; }},
      {"vocabulary too large", [](Superblock& b) { b.vocab_size = 65'537; }},
      {"unknown token type", [](Superblock& b) { b.token_type = static_cast<DataType>(9); }},
      {"float tokens", [](Superblock& b) { b.token_type = DataType::f32; }},
      {"unknown kind of file", [](Superblock& b) { b.file_kind = static_cast<FileKind>(7); }},
      {"called a sidecar", [](Superblock& b) { b.file_kind = FileKind::sidecar; }},
      {"too many sections", [](Superblock& b) { b.section_count = 129; }},
      {"no section", [](Superblock& b) { b.section_count = 0; }},
      {"a section left out", [](Superblock& b) { b.section_count -= 1; }},
      {"section length that wraps", [](Superblock& b) { b.sections[0].length = kHuge - 10; }},
      {"section offset that wraps", [](Superblock& b) { b.sections[1].offset = kHuge - 4095; }},
      {"overlapping sections", [](Superblock& b) { b.sections[2].offset = b.sections[1].offset; }},
      {"unaligned section", [](Superblock& b) { b.sections[2].offset += 8; }},
      {"sections out of order", [](Superblock& b) { std::swap(b.sections[2], b.sections[3]); }},
      {"section over the superblock", [](Superblock& b) { b.sections[0].offset = 0; }},
      {"two TOKENS", [](Superblock& b) { b.sections[1].kind = SectionKind::tokens; }},
      {"no CHUNK_CRC", [](Superblock& b) { b.sections[1].kind = SectionKind::column; }},
      {"column of an unknown type", [](Superblock& b) { b.sections[2].type = static_cast<DataType>(77); }},
      {"column of another type", [](Superblock& b) { b.sections[2].type = DataType::u8; }},
      {"column without a name", [](Superblock& b) { b.sections[2].name = 200; }},
      {"one name for two columns", [](Superblock& b) { b.sections[2].name = b.sections[3].name; }},
      {"sorted by nothing",
       [](Superblock& b) {
         b.sort_name = 99;
         b.sort_nan_last = 1;
       }},
      {"descending, not sorted", [](Superblock& b) { b.sort_descending = 1; }},
      {"unknown direction",
       [](Superblock& b) {
         b.sort_name = 6;
         b.sort_nan_last = 1;
         b.sort_descending = 2;
       }},
      {"another order than the manifest's",
       [](Superblock& b) {
         b.sort_name = 6;
         b.sort_nan_last = 1;
       }},
      {"a shard with a parent", [](Superblock& b) { b.parent[0] = 1; }},
      {"reserved byte", [](Superblock& b) { b.reserved[100] = 1; }},
      {"reserved byte at the end", [](Superblock& b) { b.reserved_end[507] = 1; }},
      {"unused entry", [](Superblock& b) { b.sections[127].offset = 4096; }},
      {"another data set", [](Superblock& b) { b.uuid[15] = 1; }},
      {"another tokenizer", [](Superblock& b) { b.tokenizer[15] = 1; }},
      {"another shard", [](Superblock& b) { b.shard_number = 5; }},
  };
  for (const auto& [name, change] : forgeries) {
    const TemporaryFolder folder;
    ShardSummary summary = write_tiny(folder / "shard");
    forge(folder / "shard", summary, change);
    INFO(name);
    CHECK(is_seen(folder, summary));
  }
}

TEST_CASE("names that cannot be are refused") {
  const std::filesystem::path path = "file";
  for (const std::string& name : {std::string(), std::string("a b"), std::string("\n"), std::string("\xC3\xA9")}) {
    CHECK_THROWS_AS(decode_names(encode_names({name}), path), CorruptShard);
  }
  CHECK_THROWS_AS(decode_names(encode_names({"a", "a"}), path), CorruptShard);
  CHECK_THROWS_AS(decode_names(encode_names({std::string(129, 'x')}), path), CorruptShard);
  const std::vector<std::byte> past_the_end = {std::byte{200}, std::byte{'a'}};
  CHECK_THROWS_AS(decode_names(past_the_end, path), CorruptShard);
  CHECK(decode_names(encode_names({"a", "gpt2.entropy"}), path) == std::vector<std::string>{"a", "gpt2.entropy"});
}

TEST_CASE("a newer format says so; compatible flags are passed over") {
  const TemporaryFolder folder;
  ShardSummary summary = write_tiny(folder / "shard");
  forge(folder / "shard", summary, [](Superblock& b) {
    b.compatible = 4;
    b.read_only_compatible = 8;
    b.minor = 3;
  });
  CHECK_FALSE(is_seen(folder, summary));
  forge(folder / "shard", summary, [](Superblock& b) { b.incompatible = 1; });
  CHECK_THROWS_AS(open_tiny(folder, summary), UnsupportedFormat);
  forge(folder / "shard", summary, [](Superblock& b) {
    b.incompatible = 0;
    b.major = 2;
  });
  CHECK_THROWS_AS(open_tiny(folder, summary), UnsupportedFormat);
}

TEST_CASE("what is no plain file is refused") {
  const TemporaryFolder folder;
  const ShardSummary summary = write_tiny(folder / "real");
  CHECK_THROWS_AS(open_tiny(folder, summary), FileError);
  std::filesystem::create_symlink(folder / "real", folder / "shard");
  CHECK_THROWS_AS(open_tiny(folder, summary), FileError);
  std::filesystem::remove(folder / "shard");
  std::filesystem::create_directory(folder / "shard");
  CHECK_THROWS_AS(open_tiny(folder, summary), FileError);
  std::filesystem::remove(folder / "shard");
  REQUIRE(::mkfifo((folder / "shard").c_str(), 0600) == 0);
  CHECK_THROWS_AS(open_tiny(folder, summary), FileError);
}
