#include <doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "data/errors.hpp"
#include "data/loader.hpp"
#include "data/look_ahead.hpp"
#include "data/order.hpp"
#include "shard_fixture.hpp"

using namespace fluxcore::data;

namespace {

constexpr std::uint32_t kTokens = 4096;  // a chunk is two pages
constexpr std::uint64_t kChunks = 600;

// Two shards of 600 chunks each.
class TwoShards {
 public:
  explicit TwoShards(const std::filesystem::path& folder,
                     const std::shared_ptr<MapPool>& pool = MapPool::of_process()) {
    std::vector<ShardEntry> entries;
    for (const char* name : {"a", "b"}) {
      ShardSpec spec;
      spec.chunk_tokens = kTokens;
      spec.vocab_size = 50'000;
      spec.shard_number = static_cast<std::uint32_t>(entries.size());
      std::vector<std::vector<std::byte>> columns;
      for (const char* column : {"source", "doc_id", "doc_offset", "next_token", "original_index"}) {
        spec.columns.push_back({column, required_type(column)});
        columns.emplace_back(kChunks * size_of(required_type(column)));
      }
      const std::vector<std::uint16_t> tokens(kChunks * kTokens, 7);
      const std::vector<std::span<const std::byte>> spans(columns.begin(), columns.end());
      ShardWriter writer(folder / name, spec);
      writer.append(kChunks, bytes(tokens), {}, spans);
      const ShardSummary summary = writer.finish();
      entries.push_back({.name = name, .bytes = summary.bytes, .chunks = summary.chunks, .root = summary.root});
    }
    for (const ShardEntry& entry : entries) {
      // Out of the page cache, as far as the file system lets it go, before a map holds on to it.
      const Descriptor file(::open((folder / entry.name).c_str(), O_RDONLY | O_CLOEXEC));
      ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    }
    SetSpec spec;
    spec.chunk_tokens = kTokens;
    spec.vocab_size = 50'000;
    set = std::make_shared<const ShardSet>(folder, spec, entries, pool);
  }

  [[nodiscard]] bool is_cold() const {
    return std::ranges::all_of(std::array<std::uint64_t, 2>{300, kChunks + 300}, [this](std::uint64_t chunk) {
      const ChunkPlace at = set->place(chunk);
      return at.shard->is_resident(at.index) == std::optional(false);
    });
  }

  [[nodiscard]] bool is_resident(std::uint64_t chunk) const {
    const ChunkPlace at = set->place(chunk);
    return at.shard->is_resident(at.index).value_or(false);
  }

  std::shared_ptr<const ShardSet> set;
};

// Reads the chunks into memory, each on its own.
void read(const TwoShards& shards, std::span<const std::uint64_t> ids) {
  for (std::size_t s = 0; s < 2; ++s) shards.set->shard(s).expect(Access::kRandom);
  for (const std::uint64_t id : ids) shards.set->check_payload(id);
}

// The kernel keeps a page that is on its way to one of its lists; a second word finds it there.
bool is_dropped(const TwoShards& shards, const LookAhead& look_ahead, std::uint64_t chunk) {
  for (int i = 0; i < 500 && shards.is_resident(chunk); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    shards.set->check_payload(chunk);
    look_ahead.drop_behind(std::array{chunk});
  }
  return !shards.is_resident(chunk);
}

bool becomes_resident(const TwoShards& shards, std::uint64_t chunk) {
  for (int i = 0; i < 500 && !shards.is_resident(chunk); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return shards.is_resident(chunk);
}

// What the kernel keeps about the map of a file.
std::string map_flags(const std::filesystem::path& path) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(path.string()) != std::string::npos) inside = true;
    if (inside && line.starts_with("VmFlags:")) return line + " ";
  }
  return {};
}

bool is_read_at_random(const std::filesystem::path& path) { return map_flags(path).find(" rr ") != std::string::npos; }

}  // namespace

TEST_CASE("announced chunks come into memory, in every shard, and no others") {
  const TemporaryFolder folder;
  const TwoShards shards(folder.path());
  if (!shards.is_cold()) {
    MESSAGE("the file system keeps its pages: nothing to see here");
    return;
  }
  LookAhead look_ahead(shards.set, 0);
  const std::vector<std::uint64_t> ids = {900, 10, 599, 600, 500, 300, 11, 1199, 700};
  look_ahead.announce(ids);
  for (const std::uint64_t id : ids) CHECK(becomes_resident(shards, id));
  for (const std::uint64_t id : std::array<std::uint64_t, 5>{100, 301, 400, 705, 1000}) {
    CHECK_FALSE(shards.is_resident(id));
  }
}

TEST_CASE("of a set that fits in memory the blocks are asked for in which the chunks lie") {
  const TemporaryFolder folder;
  const TwoShards shards(folder.path());
  if (!shards.is_cold()) {
    MESSAGE("the file system keeps its pages: nothing to see here");
    return;
  }
  LookAhead look_ahead(shards.set, std::uint64_t{1} << 30);
  const std::uint64_t block = LookAhead::kBlockBytes / (2 * kTokens);
  look_ahead.announce(std::vector<std::uint64_t>{2 * kChunks - 1, block + 1});
  const std::uint64_t last = kChunks + kChunks / block * block;  // where the last block of the second shard begins
  for (const std::uint64_t id : {block, 2 * block - 1, last, 2 * kChunks - 1}) CHECK(becomes_resident(shards, id));
  for (const std::uint64_t id : {block - 1, 2 * block, last - 1}) CHECK_FALSE(shards.is_resident(id));
}

TEST_CASE("a shard is read at random or with the kernel's own read-ahead, as the window has it") {
  const TemporaryFolder folder;
  const TwoShards shards(folder.path());
  LookAhead look_ahead(shards.set, 0);
  std::vector<std::uint64_t> forward(64);
  std::iota(forward.begin(), forward.end(), std::uint64_t{500});
  std::vector<std::uint64_t> scattered(64);
  for (std::size_t i = 0; i < scattered.size(); ++i) scattered[i] = i * 37 % 600;
  if (!shards.is_cold()) {
    MESSAGE("the file system keeps its pages: nothing to see here");
    return;
  }
  look_ahead.announce(scattered);
  if (map_flags(folder / "a").empty()) {
    MESSAGE("the kernel does not show the flags of a map");
    return;
  }
  CHECK(is_read_at_random(folder / "a"));
  look_ahead.announce(forward);  // its chunks in the second shard are not in memory
  CHECK_FALSE(is_read_at_random(folder / "a"));
}

TEST_CASE("nothing is asked for where all that is looked at is in memory") {
  const TemporaryFolder folder;
  const TwoShards shards(folder.path());
  LookAhead look_ahead(shards.set, 0);
  if (!shards.is_cold()) {
    MESSAGE("the file system keeps its pages: nothing to see here");
    return;
  }
  shards.set->shard(0).expect(Access::kRandom);
  shards.set->check_payload(5);
  // Of nine chunks the last is not looked at.
  look_ahead.announce(std::vector<std::uint64_t>{5, 5, 5, 5, 5, 5, 5, 5, 400});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  CHECK_FALSE(shards.is_resident(400));
  look_ahead.announce(std::vector<std::uint64_t>{5, 5, 5, 450, 5, 5, 5, 5, 400});
  CHECK(becomes_resident(shards, 400));
  CHECK(becomes_resident(shards, 450));
}

TEST_CASE("the first batch says how chunks are read, until a window does, and also of shards that are mapped later") {
  const TemporaryFolder folder;
  const TwoShards shards(folder.path());
  LookAhead look_ahead(shards.set, 0);
  shards.set->check_payload(0);
  if (map_flags(folder / "a").empty()) {
    MESSAGE("the kernel does not show the flags of a map");
    return;
  }
  look_ahead.expect(std::vector<std::uint64_t>{3, 700, 20});
  CHECK(is_read_at_random(folder / "a"));
  shards.set->check_payload(700);
  CHECK(is_read_at_random(folder / "b"));
  look_ahead.expect(std::vector<std::uint64_t>{3, 4, 5});
  CHECK(is_read_at_random(folder / "a"));

  const TemporaryFolder other;
  const TwoShards small(other.path());
  LookAhead roomy(small.set, std::uint64_t{1} << 30);
  roomy.expect(std::vector<std::uint64_t>{3, 700, 20});
  small.set->check_payload(0);
  CHECK_FALSE(is_read_at_random(other / "a"));
}

TEST_CASE("a shard that is gone is no error of the announcement") {
  const TemporaryFolder folder;
  const TwoShards shards(folder.path());
  std::filesystem::remove(folder / "b");
  LookAhead look_ahead(shards.set, 0);
  look_ahead.announce(std::vector<std::uint64_t>{700, 800, 900});
  CHECK_THROWS_AS(shards.set->check_payload(800), FileError);
}

TEST_CASE("chunks that were read go out of memory, and no others, whether their map is kept or not") {
  for (const std::size_t limit : {std::size_t{2}, std::size_t{1}}) {
    const TemporaryFolder folder;
    const TwoShards shards(folder.path(), std::make_shared<MapPool>(limit));
    if (!shards.is_cold()) {
      MESSAGE("the file system keeps its pages: nothing to see here");
      return;
    }
    CHECK(shards.set->shard(0).is_lasting() == (limit == 2));
    const std::vector<std::uint64_t> ids = {20, 21, 23, 599, 600, 1199};
    const std::vector<std::uint64_t> others = {19, 22, 24, 598, 601, 1198};
    read(shards, ids);
    read(shards, others);
    LookAhead(shards.set, std::uint64_t{1} << 30).drop_behind(ids);
    for (const std::uint64_t id : ids) CHECK(shards.is_resident(id));  // the set fits
    const LookAhead look_ahead(shards.set, 0);
    look_ahead.drop_behind(ids);
    for (const std::uint64_t id : ids) CHECK(is_dropped(shards, look_ahead, id));
    for (const std::uint64_t id : others) CHECK(shards.is_resident(id));
    read(shards, ids);  // again as before
  }
}

TEST_CASE("a loader takes out of memory what it has copied, if it is told to") {
  for (const bool drop_behind : {false, true}) {
    const TemporaryFolder folder;
    const TwoShards shards(folder.path());
    if (!shards.is_cold()) {
      MESSAGE("the file system keeps its pages: nothing to see here");
      return;
    }
    const auto order = std::make_shared<const RankedOrder>(Ranking({}, 2 * kChunks),
                                                           std::vector<Segment>{{0, 2 * kChunks, Walk::kShuffled}}, 5);
    Loader loader(shards.set, order, true, 1, drop_behind, 0);
    std::vector<std::uint64_t> ids(300);
    std::vector<std::uint16_t> tokens(ids.size() * kTokens);
    loader.submit(0, ids, {.type = OutType::u16, .tokens = tokens.data(), .targets = nullptr});
    loader.next();
    CHECK(tokens.back() == 7);
    const auto left = std::ranges::count_if(ids, [&](std::uint64_t id) { return shards.is_resident(id); });
    // Of those that are still on their way to the kernel's lists some stay.
    CHECK((drop_behind ? left < 150 : left == 300));
  }
}
