#include "data/map_pool.hpp"

#include <fstream>
#include <mutex>
#include <stdexcept>

#include "data/fork_lock.hpp"

namespace fluxcore::data {
namespace {

std::mutex& pool_lock() { return fork_lock<MapPool>(); }

std::size_t maps_of_process() {
  constexpr std::size_t kByDefault = 65'530;
  std::ifstream file("/proc/sys/vm/max_map_count");
  std::size_t count = 0;
  return file >> count ? count : kByDefault;
}

}  // namespace

MapPool::MapPool(std::size_t limit) : limit_(limit) { pool_lock(); }

const std::shared_ptr<MapPool>& MapPool::of_process() {
  static const auto pool = std::make_shared<MapPool>(maps_of_process() / 2);
  return pool;
}

bool MapPool::reserve(std::size_t count) {
  const std::lock_guard lock(pool_lock());
  if (count > limit_ - reserved_) return false;
  reserved_ += count;
  return true;
}

void MapPool::give_back(std::size_t count) noexcept {
  const std::lock_guard lock(pool_lock());
  reserved_ -= count;
}

std::size_t MapPool::mapped() const {
  const std::lock_guard lock(pool_lock());
  return mapped_;
}

void MapPool::leave(PooledMap& map) noexcept {
  if (map.self_.empty()) map.self_.splice(map.self_.begin(), idle_, map.node_);
}

// One at most: a map is added, or left by its last holder, one at a time.
std::unique_ptr<const MappedFile> MapPool::take_surplus() noexcept {
  if (2 * mapped_ <= limit_ || idle_.empty()) return nullptr;
  PooledMap& oldest = *idle_.front();
  leave(oldest);
  --mapped_;
  return std::unique_ptr<const MappedFile>(oldest.mapped_.exchange(nullptr));
}

MapHold::MapHold(PooledMap& map) noexcept {
  if (map.is_lasting()) return;
  map.hold();
  map_ = &map;
}

MapHold::~MapHold() {
  if (map_ != nullptr) map_->release();
}

MapHold& MapHold::operator=(MapHold&& other) noexcept {
  if (this != &other) {
    if (map_ != nullptr) map_->release();
    map_ = std::exchange(other.map_, nullptr);
  }
  return *this;
}

PooledMap::PooledMap(MapPool* pool) : pool_(pool) {
  if (pool_ != nullptr) node_ = self_.insert(self_.end(), this);
}

PooledMap::~PooledMap() {
  std::unique_ptr<const MappedFile> last;  // unmapped when the lock is free again
  if (pool_ == nullptr) {
    last.reset(mapped_.load());
    return;
  }
  const std::lock_guard lock(pool_lock());
  last.reset(mapped_.load());  // not before: another set's thread may have let it go
  if (last == nullptr) return;
  pool_->leave(*this);
  --pool_->mapped_;
}

const MappedFile& PooledMap::keep(std::unique_ptr<const MappedFile> fresh) {
  const MappedFile* mapped = nullptr;
  if (pool_ == nullptr) {
    return mapped_.compare_exchange_strong(mapped, fresh.get()) ? *fresh.release() : *mapped;
  }
  std::unique_ptr<const MappedFile> surplus;
  const std::lock_guard lock(pool_lock());
  if (holds_ == 0) throw std::logic_error("a file is mapped that nobody holds");
  if (!mapped_.compare_exchange_strong(mapped, fresh.get())) return *mapped;
  ++pool_->mapped_;
  surplus = pool_->take_surplus();
  return *fresh.release();
}

void PooledMap::hold() noexcept {
  const std::lock_guard lock(pool_lock());
  ++holds_;
  pool_->leave(*this);
}

void PooledMap::release() noexcept {
  std::unique_ptr<const MappedFile> surplus;
  const std::lock_guard lock(pool_lock());
  if (--holds_ > 0 || mapped_.load() == nullptr) return;
  pool_->idle_.splice(pool_->idle_.end(), self_, node_);
  surplus = pool_->take_surplus();
}

}  // namespace fluxcore::data
