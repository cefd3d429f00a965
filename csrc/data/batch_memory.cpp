#include "data/batch_memory.hpp"

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
  for (std::byte* block : free_) release(block);
}

std::shared_ptr<BatchMemory> BatchMemory::make(std::size_t block_bytes, std::size_t keep) {
  return std::shared_ptr<BatchMemory>(new BatchMemory(block_bytes, keep));
}

BatchMemory::Block BatchMemory::take() {
  std::byte* block = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      block = free_.back();
      free_.pop_back();
    }
  }
  if (block == nullptr) block = static_cast<std::byte*>(::operator new(block_bytes_, kLine));
  return {block, Release{shared_from_this()}};
}

void BatchMemory::give_back(std::byte* block) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (free_.size() < keep_) {
      free_.push_back(block);  // within what was reserved
      return;
    }
  }
  release(block);
}

}  // namespace fluxcore::data
