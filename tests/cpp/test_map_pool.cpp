#include <doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>

#include "data/errors.hpp"
#include "data/look_ahead.hpp"
#include "data/map_pool.hpp"
#include "shard_fixture.hpp"

using namespace fluxcore::data;

namespace {

constexpr std::uint64_t kShards = 24;

// One chunk, whose tokens are all the number of the shard.
ShardEntry write_numbered(const std::filesystem::path& folder, std::uint64_t number) {
  ShardSpec spec = tiny_spec();
  spec.shard_number = static_cast<std::uint32_t>(number);
  std::erase_if(spec.columns, [](const ColumnSpec& column) { return column.name == "valid_len"; });
  std::vector<std::vector<std::byte>> columns;
  for (const ColumnSpec& column : spec.columns) columns.emplace_back(size_of(column.type));
  const std::vector<std::span<const std::byte>> spans(columns.begin(), columns.end());
  const std::vector<std::uint16_t> tokens(kTinyTokens, static_cast<std::uint16_t>(number));
  const std::string name = "shard-" + std::to_string(number);
  ShardWriter writer(folder / name, spec);
  writer.append(1, bytes(tokens), {}, spans);
  const ShardSummary summary = writer.finish();
  return {.name = name, .bytes = summary.bytes, .chunks = summary.chunks, .root = summary.root};
}

class ManyShards {
 public:
  ManyShards() {
    for (std::uint64_t number = 0; number < kShards; ++number) entries_.push_back(write_numbered(path(), number));
  }

  [[nodiscard]] std::shared_ptr<const ShardSet> open(const std::shared_ptr<MapPool>& pool,
                                                     std::uint64_t count = kShards) const {
    SetSpec spec;
    spec.uuid = tiny_spec().uuid;
    spec.chunk_tokens = kTinyTokens;
    spec.vocab_size = kTinyVocabulary;
    return std::make_shared<const ShardSet>(
        path(), spec, std::vector(entries_.begin(), entries_.begin() + std::ptrdiff_t(count)), pool);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }
  [[nodiscard]] std::filesystem::path file(std::uint64_t number) const { return path() / entries_[number].name; }

  // How often this process has mapped the file.
  [[nodiscard]] int maps_of(std::uint64_t number) const {
    std::ifstream maps("/proc/self/maps");
    int count = 0;
    for (std::string line; std::getline(maps, line);) count += line.ends_with(file(number).string()) ? 1 : 0;
    return count;
  }
  [[nodiscard]] int maps() const {
    int count = 0;
    for (std::uint64_t number = 0; number < kShards; ++number) count += maps_of(number);
    return count;
  }

 private:
  TemporaryFolder folder_;
  std::vector<ShardEntry> entries_;
};

// Whether the chunks are read right, with their targets.
bool reads(const ShardSet& set, std::span<const std::uint64_t> ids) {
  std::vector<std::int64_t> tokens(ids.size() * kTinyTokens);
  std::vector<std::int64_t> targets(tokens.size());
  set.gather(ids, {.type = OutType::i64, .tokens = tokens.data(), .targets = targets.data()}, true);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto number = static_cast<std::int64_t>(ids[i / kTinyTokens]);
    const bool last = i % kTinyTokens == kTinyTokens - 1;  // the token behind a chunk is 0
    if (tokens[i] != number || targets[i] != (last ? 0 : number)) return false;
  }
  return true;
}

bool reads(const ShardSet& set, std::uint64_t id) { return reads(set, std::array{id}); }

bool reads_all(const ShardSet& set) {
  std::vector<std::uint64_t> ids(set.chunk_count());
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = i;
  return reads(set, ids);
}

}  // namespace

TEST_CASE("sets that fit keep their maps, and one that does not keeps half as many as the limit") {
  const ManyShards shards;
  const auto pool = std::make_shared<MapPool>(12);
  const auto small = shards.open(pool, 7);
  auto other = shards.open(pool, 5);
  CHECK(reads_all(*small));
  CHECK(reads_all(*other));
  CHECK(shards.maps() == 12);
  CHECK(pool->mapped() == 0);
  const auto large = shards.open(pool, 6);
  CHECK(large->shard(0).is_lasting() == false);
  CHECK(reads_all(*large));
  CHECK(pool->mapped() == 6);
  const auto larger = shards.open(pool);
  for (int round = 0; round < 3; ++round) CHECK(reads_all(*larger));
  CHECK(pool->mapped() == 6);
  CHECK(shards.maps() == 18);
  other.reset();
  CHECK(shards.maps() == 13);
  CHECK(shards.open(pool, 5)->shard(0).is_lasting());
}

TEST_CASE("what was let go longest ago goes first, and what is held stays") {
  const ManyShards shards;
  const auto set = shards.open(std::make_shared<MapPool>(6));
  CHECK(reads(*set, std::array<std::uint64_t, 4>{0, 1, 2, 0}));
  CHECK(reads(*set, 3));
  CHECK(shards.maps_of(0) == 1);
  CHECK(shards.maps_of(1) == 0);
  {
    const ChunkPlace held = set->place(2);
    const std::span<const std::byte> tokens = held.shard->tokens(held.index);
    CHECK(reads_all(*set));
    CHECK(shards.maps_of(2) == 1);
    CHECK(shards.maps() == 3);
    CHECK(tokens.front() == std::byte{2});
  }
  CHECK(reads(*set, std::array<std::uint64_t, 3>{10, 11, 12}));
  CHECK(shards.maps_of(2) == 0);
}

TEST_CASE("what is held beyond the limit is mapped all the same, and goes when it is let go") {
  const ManyShards shards;
  const auto pool = std::make_shared<MapPool>(6);
  const auto set = shards.open(pool);
  std::vector<ChunkPlace> held;
  for (std::uint64_t id = 0; id < 10; ++id) {
    held.push_back(set->place(id));
    CHECK(held.back().shard->tokens(0).front() == static_cast<std::byte>(id));
  }
  CHECK(pool->mapped() == 10);
  CHECK(reads_all(*set));
  CHECK(pool->mapped() == 10);
  held.clear();
  CHECK(pool->mapped() == 3);
  CHECK(shards.maps() == 3);
}

TEST_CASE("a file that was changed while it was not mapped is seen") {
  const ManyShards shards;
  const auto set = shards.open(std::make_shared<MapPool>(2));
  CHECK(reads(*set, 5));
  CHECK(reads(*set, 6));
  REQUIRE(shards.maps_of(5) == 0);
  const std::vector<char> content = read_file(shards.file(5));
  write_file(shards.file(5), read_file(shards.file(7)));
  CHECK_THROWS_AS(reads(*set, 5), CorruptShard);
  write_file(shards.file(5), std::span(content).first(content.size() - 1));
  CHECK_THROWS_AS(reads(*set, 5), CorruptShard);
  std::filesystem::remove(shards.file(5));
  CHECK_THROWS_AS(reads(*set, 5), FileError);
  write_file(shards.file(5), content);
  CHECK(reads(*set, 5));
}

TEST_CASE("threads read sets that share a pool, while others are opened and closed") {
  const ManyShards shards;
  const auto pool = std::make_shared<MapPool>(8);
  const auto set = shards.open(pool);
  std::atomic<int> wrong{0};
  const auto read = [&](const ShardSet& from, unsigned seed) {
    std::minstd_rand random(seed);
    LookAhead look_ahead(set, 0);
    std::vector<std::uint64_t> ids(5);
    for (int round = 0; round < 150; ++round) {
      for (std::uint64_t& id : ids) id = random() % kShards;
      look_ahead.announce(ids);
      if (!reads(from, ids)) ++wrong;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t) threads.emplace_back([&, t] { read(*set, t + 1); });
  threads.emplace_back([&] {
    for (int round = 0; round < 20; ++round) {
      if (!reads_all(*shards.open(pool))) ++wrong;
    }
  });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(pool->mapped() <= 4);  // a set that was closed may have taken the place of maps of the other
  CHECK(shards.maps() == static_cast<int>(pool->mapped()));
  CHECK(reads_all(*set));
  CHECK(pool->mapped() == 4);
  CHECK(shards.maps() == 4);
}

TEST_CASE("a child that is forked while threads read can read too") {
  const ManyShards shards;
  const auto set = shards.open(std::make_shared<MapPool>(4));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) reads_all(*set);
    });
  }
  for (int round = 0; round < 10; ++round) {
    const pid_t child = fork();
    if (child == 0) _exit(reads_all(*set) ? 0 : 1);
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("a set has more shards than the process may have open files") {
  const ManyShards shards;
  rlimit before = {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const rlimit few = {.rlim_cur = 16, .rlim_max = before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  const auto set = shards.open(std::make_shared<MapPool>(kShards));
  const bool right = reads_all(*set);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(right);
  CHECK(shards.maps() == kShards);
}
