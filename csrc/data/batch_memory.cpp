#include "data/batch_memory.hpp"

#include <cstddef>
#include <new>

namespace fluxcore::data {
namespace {

constexpr std::align_val_t kLine{64};

void release(std::byte* block) noexcept { ::operator delete(block, kLine); }

}  // namespace

BatchMemory::BatchMemory(std::size_t block_bytes, std::size_t keep) : block_bytes_(block_bytes), keep_(keep) {
  free_.reserve(keep);
}

BatchMemory::~BatchMemory() {
  for (const Free& free : free_) release(free.block);
}

std::shared_ptr<BatchMemory> BatchMemory::make(std::size_t block_bytes, std::size_t keep) {
  return std::shared_ptr<BatchMemory>(new BatchMemory(block_bytes, keep));
}

BatchMemory::Block BatchMemory::take(std::size_t writer) {
  std::byte* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      std::size_t taken = free_.size() - 1;
      while (taken > 0 && free_[taken].writer != writer) --taken;
      if (free_[taken].writer != writer) taken = free_.size() - 1;
      block = free_[taken].block;
      free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(taken));
    }
  }
  if (block == nullptr) block = static_cast<std::byte*>(::operator new(block_bytes_, kLine));
  return {block, Release{.memory = shared_from_this(), .writer = writer}};
}

void BatchMemory::give_back(Free free) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (free_.size() < keep_) {
      free_.push_back(free);  // within what was reserved
      return;
    }
  }
  release(free.block);
}

}  // namespace fluxcore::data
