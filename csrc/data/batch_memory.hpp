#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace fluxcore::data {

// Blocks of one size, used again: the last one that was given back is the first to be taken, since it is the likeliest
// to be in a cache still, and of those the one that the same thread wrote: to write what lies in another processor's
// cache takes twice as long. A fresh block costs a page fault each 4 KiB, which together take longer than filling it.
// Safe to use from several threads.
class BatchMemory : public std::enable_shared_from_this<BatchMemory> {
 public:
  struct Release {
    std::shared_ptr<BatchMemory> memory;
    std::size_t writer = 0;
    void operator()(std::byte* block) const noexcept { memory->give_back({.block = block, .writer = writer}); }
  };
  using Block = std::unique_ptr<std::byte, Release>;

  // `keep`: how many free blocks are kept at most; those beyond go back to the system.
  static std::shared_ptr<BatchMemory> make(std::size_t block_bytes, std::size_t keep);
  ~BatchMemory();
  BatchMemory(const BatchMemory&) = delete;
  BatchMemory& operator=(const BatchMemory&) = delete;
  BatchMemory(BatchMemory&&) = delete;
  BatchMemory& operator=(BatchMemory&&) = delete;

  [[nodiscard]] std::size_t block_bytes() const noexcept { return block_bytes_; }
  // Of any contents, where a cache line begins; throws std::bad_alloc. Who wrote it in the end, if not `writer`, is to
  // be said to its deleter.
  Block take(std::size_t writer = 0);

 private:
  BatchMemory(std::size_t block_bytes, std::size_t keep);
  struct Free {
    std::byte* block;
    std::size_t writer;
  };
  void give_back(Free free) noexcept;

  std::size_t block_bytes_;
  std::size_t keep_;
  std::mutex mutex_;
  std::vector<Free> free_;
};

}  // namespace fluxcore::data
