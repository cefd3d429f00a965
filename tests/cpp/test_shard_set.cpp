#include <doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "data/errors.hpp"
#include "shard_fixture.hpp"

using namespace fluxcore::data;

namespace {

template <class Out>
std::vector<Out> gather_one(const ShardSet& set, std::uint64_t id, OutType type, bool targets) {
  std::vector<Out> tokens(kTinyTokens);
  std::vector<Out> wanted(kTinyTokens);
  const std::vector<std::uint64_t> ids = {id};
  set.gather(ids, {.type = type, .tokens = tokens.data(), .targets = targets ? wanted.data() : nullptr}, true);
  return targets ? wanted : tokens;
}

}  // namespace

TEST_CASE("tokens and targets are copied and widened") {
  const TemporaryFolder folder;
  const auto set = open_tiny(folder, write_tiny(folder / "shard"));
  CHECK(set->chunk_count() == 3);
  CHECK(set->chunk_tokens() == kTinyTokens);
  using I64 = std::vector<std::int64_t>;
  CHECK(gather_one<std::int64_t>(*set, 1, OutType::i64, false) == I64{101, 102, 103, 104, 105, 106, 107, 108});
  CHECK(gather_one<std::int64_t>(*set, 0, OutType::i64, true) == I64{2, 3, 4, 5, 6, 7, 8, 42});
  CHECK(gather_one<std::int64_t>(*set, 1, OutType::i64, true) == I64{102, 103, 104, 105, 106, 107, 108, -100});
  CHECK(gather_one<std::int64_t>(*set, 2, OutType::i64, true) == I64{202, 203, 204, 205, -100, -100, -100, -100});
  CHECK(gather_one<std::int32_t>(*set, 2, OutType::i32, true)[7] == -100);
  CHECK(gather_one<std::uint16_t>(*set, 2, OutType::u16, true) ==
        std::vector<std::uint16_t>{202, 203, 204, 205, 0, 0, 0, 0});
  CHECK_THROWS_AS(gather_one<std::uint8_t>(*set, 0, OutType::u8, false), std::invalid_argument);
  CHECK_THROWS_AS(gather_one<std::int64_t>(*set, 3, OutType::i64, false), std::out_of_range);
}

TEST_CASE("a mask takes targets out, and its bytes are under the chunk's CRC") {
  const TemporaryFolder folder;
  ShardSpec spec = tiny_spec();
  spec.token_mask = true;
  const ShardSummary summary = write_tiny(folder / "shard", spec);
  const auto set = open_tiny(folder, summary);
  CHECK(gather_one<std::int64_t>(*set, 1, OutType::i64, true) ==
        std::vector<std::int64_t>{102, 103, 104, 105, -100, -100, -100, -100});
  std::vector<char> content = read_file(folder / "shard");
  const Superblock& block = set->shard(0).superblock();
  const Section* mask = nullptr;
  for (const Section& section : block.sections) {
    if (section.kind == SectionKind::token_mask) mask = &section;
  }
  REQUIRE(mask != nullptr);
  content[mask->offset + 1] ^= 1;
  write_file(folder / "shard", content);
  CHECK_THROWS_AS(gather_one<std::int64_t>(*open_tiny(folder, summary), 1, OutType::i64, true), CorruptShard);
}

TEST_CASE("a damaged chunk is named with its document, and only where it is read") {
  const TemporaryFolder folder;
  const ShardSummary summary = write_tiny(folder / "shard");
  std::vector<char> content = read_file(folder / "shard");
  content[kPage + 2 * kTinyTokens + 3] ^= 4;
  write_file(folder / "shard", content);
  const auto set = open_tiny(folder, summary);
  CHECK(gather_one<std::int64_t>(*set, 0, OutType::i64, false)[0] == 1);
  try {
    gather_one<std::int64_t>(*set, 1, OutType::i64, false);
    FAIL("the damage was not seen");
  } catch (const CorruptShard& error) {
    CHECK(error.shard() == "shard");
    CHECK(error.chunk() == 1);
    CHECK(error.document() == 8);
    CHECK(std::string(error.what()).find("chunk 1, document 8") != std::string::npos);
  }
}

TEST_CASE("a file that shrinks after it was opened is an error, not a signal") {
  const TemporaryFolder folder;
  const auto set = open_tiny(folder, write_tiny(folder / "shard"));
  std::filesystem::resize_file(folder / "shard", kPage);
  CHECK_THROWS_AS(gather_one<std::int64_t>(*set, 0, OutType::i64, false), CorruptShard);
}

TEST_CASE("threads that touch a shard for the first time agree") {
  const TemporaryFolder folder;
  const ShardSummary summary = write_tiny(folder / "shard");
  for (int round = 0; round < 50; ++round) {
    const auto set = open_tiny(folder, summary);
    std::vector<std::thread> threads;
    std::atomic<int> right = 0;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] { right += gather_one<std::int64_t>(*set, 0, OutType::i64, true)[7] == 42 ? 1 : 0; });
    }
    for (std::thread& thread : threads) thread.join();
    REQUIRE(right == 4);
  }
}

TEST_CASE("nothing is left of a writer that does not finish") {
  const TemporaryFolder folder;
  {
    const ShardWriter writer(folder / "shard", tiny_spec());
  }
  CHECK(std::filesystem::is_empty(folder.path()));
  ShardSpec wrong = tiny_spec();
  wrong.vocab_size = 1 << 20;  // more than u16 holds
  CHECK_THROWS_AS(write_tiny(folder / "shard", wrong), std::invalid_argument);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("a file that cannot be made is an error with its number and path") {
  try {
    write_tiny("/proc/self/shard");
    FAIL("a file appeared in /proc");
  } catch (const FileError& error) {
    CHECK(error.path1() == "/proc/self/shard");
    CHECK(error.code().value() != 0);
  }
}

TEST_CASE("a child that is forked while a file is written leaves it to its parent") {
  const TemporaryFolder folder;
  AtomicFile file(folder / "file");
  file.append(std::vector<std::byte>(10, std::byte{7}));
  const pid_t child = ::fork();
  if (child == 0) {
    file.discard();
    ::_exit(0);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  file.commit();
  CHECK(read_file(folder / "file") == std::vector<char>(10, 7));
}
