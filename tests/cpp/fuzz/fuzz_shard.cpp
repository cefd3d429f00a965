// Opens any bytes as a shard and reads all that a reader can ask for. Whatever they are, the answer is data or one of
// the errors that are meant for it, and what passes `verify_shard` can be read.
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "data/crc32c.hpp"
#include "data/describe.hpp"
#include "data/errors.hpp"
#include "shard_fixture.hpp"

using namespace fluxcore::data;

namespace {

constexpr std::uint64_t kMostChunks = 64;

// Calls `read`; false where it threw an error of the data.
template <class Read>
bool succeeds(Read&& read) {
  try {
    read();
  } catch (const CorruptShard&) {
    return false;
  } catch (const UnsupportedFormat&) {
    return false;
  }
  return true;
}

void need(bool holds, const char* what) {
  if (holds) return;
  std::cerr << "wrong: " << what << '\n';
  std::abort();
}

// A set of this shard alone, whose manifest lists it as it is.
std::shared_ptr<const ShardSet> open_as_listed(const std::filesystem::path& folder, const Shard& shard) {
  const Superblock& block = shard.superblock();
  const SetSpec spec = {
      .uuid = block.uuid,
      .token_type = block.token_type,
      .chunk_tokens = block.chunk_tokens,
      .vocab_size = block.vocab_size,
      .tokenizer = block.tokenizer,
      .sort_column = block.sort_name == kNoName ? std::string() : shard.column_names()[block.sort_name],
      .sort_descending = block.sort_descending == 1};
  const ShardEntry entry = {.name = "shard", .bytes = shard.size(), .chunks = block.chunk_count, .root = shard.root()};
  return std::make_shared<const ShardSet>(folder, spec, std::vector{entry});
}

bool read_columns(const Shard& shard) {
  bool all = true;
  for (const std::string& name : shard.column_names()) {
    all =
        succeeds([&] {
          const auto items = shard.column(name);
          need(items.size() == size_of(shard.column_type(name)) * shard.superblock().chunk_count, "a column's length");
        }) &&
        all;
  }
  return all;
}

bool gather(const ShardSet& set, std::span<const std::uint64_t> ids, OutType type, bool verify) {
  std::vector<std::byte> tokens(ids.size() * set.chunk_tokens() * size_of(type));
  std::vector<std::byte> targets(tokens.size());
  return succeeds([&] { set.gather(ids, {.type = type, .tokens = tokens.data(), .targets = targets.data()}, verify); });
}

bool read_chunks(const ShardSet& set) {
  std::vector<std::uint64_t> ids(std::min(set.chunk_count(), kMostChunks));
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = set.chunk_count() - 1 - i;
  std::vector<std::int64_t> facts(kDescribed * ids.size());
  bool all = succeeds([&] { describe_chunks(set, ids, facts); });
  for (const bool verify : {true, false}) {
    all = gather(set, ids, OutType::i64, verify) && all;
    if (set.vocab_size() <= 65'536) all = gather(set, ids, OutType::u16, verify) && all;
  }
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TemporaryFolder folder;
  const std::filesystem::path path = folder / "shard";
  write_file(path, {reinterpret_cast<const char*>(data), size});
  std::unique_ptr<const Shard> shard;
  if (!succeeds([&] { shard = std::make_unique<const Shard>(path); })) return 0;
  const bool columns = read_columns(*shard);
  if (shard->superblock().file_kind == FileKind::sidecar) {
    need(columns || !succeeds([&] { shard->check_sections(); }), "a sound sidecar cannot be read");
    return 0;
  }
  std::shared_ptr<const ShardSet> set;
  const bool is_first = shard->superblock().shard_number == 0;
  need(succeeds([&] { set = open_as_listed(folder.path(), *shard); }) == is_first, "a set takes or refuses a shard");
  if (!is_first) return 0;
  const bool sound = succeeds([&] { set->verify_shard(0); });
  const bool chunks = read_chunks(*set);
  need(!sound || (columns && chunks), "a sound shard cannot be read");
  // Cut after it was mapped: now pages of it cannot be brought in.
  std::filesystem::resize_file(path, crc32c(std::as_bytes(std::span(data, size))) % size);
  read_chunks(*set);
  return 0;
}
