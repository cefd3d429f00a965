#include "data/loader.hpp"

#include <utility>

namespace fluxcore::data {

Loader::Loader(std::shared_ptr<const ShardSet> shards, std::shared_ptr<const Order> order, bool verify, size_t threads,
               bool drop_behind, uint64_t memory)
    : shards_(std::move(shards)),
      order_(std::move(order)),
      verify_(verify),
      drop_behind_(drop_behind),
      look_ahead_(shards_, memory),
      executor_(threads) {}

void Loader::submit(uint64_t position, Where where, std::vector<Rows> ahead) {
  executor_.submit([this, position, where = std::move(where), ahead = std::move(ahead)](size_t runner) {
    look_ahead_.announce(chunks_of(ahead));
    const auto [chunk_ids, out] = where(runner);
    order_->chunks_at(position, chunk_ids);
    look_ahead_.expect(chunk_ids);
    shards_->gather(chunk_ids, out, verify_);
    if (drop_behind_) look_ahead_.drop_behind(chunk_ids);
  });
}

void Loader::submit(uint64_t position, std::span<uint64_t> chunk_ids, const GatherOut& out, std::vector<Rows> ahead) {
  submit(
      position, [chunk_ids, out](size_t /*runner*/) { return BatchOut{.chunk_ids = chunk_ids, .out = out}; },
      std::move(ahead));
}

std::vector<uint64_t> Loader::chunks_of(std::span<const Rows> batches) const {
  size_t count = 0;
  for (const Rows& rows : batches) count += rows.count;
  std::vector<uint64_t> ids(count);
  std::span<uint64_t> rest(ids);
  for (const Rows& rows : batches) {
    order_->chunks_at(rows.position, rest.first(rows.count));
    rest = rest.subspan(rows.count);
  }
  return ids;
}

}  // namespace fluxcore::data
