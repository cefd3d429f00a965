#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "data/describe.hpp"
#include "data/errors.hpp"
#include "data/loader.hpp"
#include "data/shard_writer.hpp"
#include "doctest.h"

using namespace fluxcore::data;

namespace {

constexpr uint32_t kChunkTokens = 64;
constexpr uint64_t kChunks = 40;

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

// A folder with one shard; token t of chunk c is 64 c + t.
class OneShard {
 public:
  OneShard() {
    std::filesystem::create_directories(folder_);
    ShardSpec spec;
    spec.chunk_tokens = kChunkTokens;
    spec.vocab_size = kChunks * kChunkTokens;
    std::vector<uint16_t> tokens(kChunks * kChunkTokens);
    std::iota(tokens.begin(), tokens.end(), uint16_t{0});
    std::vector<std::vector<std::byte>> columns;
    for (const char* name : {"next_token", "source", "doc_id", "doc_offset", "original_index"}) {
      spec.columns.push_back({name, required_type(name)});
      columns.emplace_back(kChunks * size_of(required_type(name)));
    }
    std::vector<uint64_t> documents(kChunks);
    std::iota(documents.rbegin(), documents.rend(), uint64_t{0});
    columns[2].assign(bytes_of(documents).begin(), bytes_of(documents).end());
    const std::vector<std::span<const std::byte>> spans(columns.begin(), columns.end());
    ShardWriter writer(path(), spec);
    writer.append(kChunks, bytes_of(tokens), {}, spans);
    const ShardSummary summary = writer.finish();
    entry_ = {"shard", summary.bytes, summary.chunks, summary.root};
    set_.uuid = spec.uuid;
    set_.token_type = spec.token_type;
    set_.chunk_tokens = spec.chunk_tokens;
    set_.vocab_size = spec.vocab_size;
  }
  ~OneShard() { std::filesystem::remove_all(folder_); }
  OneShard(const OneShard&) = delete;
  OneShard& operator=(const OneShard&) = delete;

  std::filesystem::path path() const { return folder_ / "shard"; }
  std::shared_ptr<const ShardSet> open() const {
    return std::make_shared<const ShardSet>(folder_, set_, std::vector{entry_});
  }
  void flip_bit_of_chunk(uint64_t chunk) const {
    // The value of its first token occurs once, since every token is another.
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    std::string bytes(std::filesystem::file_size(path()), '\0');
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    std::vector<uint16_t> chunk_tokens(kChunkTokens);
    std::iota(chunk_tokens.begin(), chunk_tokens.end(), static_cast<uint16_t>(chunk * kChunkTokens));
    const std::string wanted(reinterpret_cast<const char*>(chunk_tokens.data()), kChunkTokens * sizeof(uint16_t));
    const size_t at = bytes.find(wanted);
    REQUIRE(at != std::string::npos);
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    file.seekp(0);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }

 private:
  std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / ("fluxcore_test_loader." + std::to_string(getpid()));
  ShardEntry entry_;
  SetSpec set_;
};

std::shared_ptr<const Order> shuffled() {
  return std::make_shared<const RankedOrder>(Ranking({}, kChunks), std::vector<Segment>{{0, kChunks, Walk::kShuffled}},
                                             5);
}

struct Batch {
  explicit Batch(size_t rows) : ids(rows), tokens(rows * kChunkTokens), targets(rows * kChunkTokens) {}
  GatherOut out() { return {OutType::i64, tokens.data(), targets.data()}; }
  std::vector<uint64_t> ids;
  std::vector<int64_t> tokens;
  std::vector<int64_t> targets;
};

}  // namespace

TEST_CASE("batches hold the rows of the order, in the order asked for, with any number of threads") {
  const OneShard shard;
  const auto order = shuffled();
  for (const size_t threads : std::vector<size_t>{0, 1, 4}) {
    Loader loader(shard.open(), order, true, threads);
    std::vector<Batch> batches(30, Batch(7));
    for (size_t b = 0; b < batches.size(); ++b) {
      loader.submit(b * 7, batches[b].ids, batches[b].out());
    }
    for (size_t b = 0; b < batches.size(); ++b) {
      CHECK(loader.pending() == batches.size() - b);
      loader.next();
      std::vector<uint64_t> expected(7);
      order->chunks_at(b * 7, expected);
      CHECK(batches[b].ids == expected);
      for (size_t row = 0; row < 7; ++row) {
        CHECK(batches[b].tokens[row * kChunkTokens + 3] == static_cast<int64_t>(expected[row] * kChunkTokens + 3));
        CHECK(batches[b].targets[row * kChunkTokens + 3] == static_cast<int64_t>(expected[row] * kChunkTokens + 4));
      }
    }
  }
}

TEST_CASE("chunks are described from the columns, row by row") {
  const OneShard shard;
  const std::vector<uint64_t> ids = {3, 0, 39};
  std::vector<int64_t> facts(kDescribed * ids.size(), -1);
  describe_chunks(*shard.open(), ids, facts);
  for (size_t row = 0; row < ids.size(); ++row) {
    CHECK(facts[row] == 0);
    CHECK(facts[3 + row] == static_cast<int64_t>(kChunks - 1 - ids[row]));
    CHECK(facts[9 + row] == kChunkTokens);
  }
}

TEST_CASE("a corrupt chunk raises at its batch, and at no other") {
  const OneShard shard;
  shard.flip_bit_of_chunk(17);
  for (const size_t threads : std::vector<size_t>{0, 1, 4}) {
    Loader loader(shard.open(), shuffled(), true, threads);
    std::vector<Batch> batches(10, Batch(4));
    for (size_t b = 0; b < batches.size(); ++b) {
      loader.submit(b * 4, batches[b].ids, batches[b].out());
    }
    int raised = 0;
    for (Batch& batch : batches) {
      try {
        loader.next();
        CHECK(std::ranges::find(batch.ids, 17U) == batch.ids.end());
      } catch (const CorruptShard& error) {
        ++raised;
        CHECK(error.chunk() == 17);
        CHECK(std::string(error.what()).find("shard") != std::string::npos);
        CHECK(std::ranges::find(batch.ids, 17U) != batch.ids.end());
      }
    }
    CHECK(raised == 1);
  }
}

TEST_CASE("a loader can be dropped with batches in work") {
  const OneShard shard;
  const auto set = shard.open();
  for (int round = 0; round < 30; ++round) {
    std::vector<Batch> batches(8, Batch(5));
    Loader loader(set, shuffled(), false, 3);
    for (Batch& batch : batches) {
      loader.submit(0, batch.ids, batch.out());
    }
    loader.next();
  }
}
