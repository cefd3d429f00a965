#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "data/batch_memory.hpp"
#include "data/loader.hpp"

namespace fluxcore::python {

// A batch that can be written: what is handed out, and where it lies. Made and destroyed under the interpreter lock.
struct PreparedBatch {
  pybind11::object ids;
  pybind11::object tokens;
  pybind11::object targets;
  data::BatchOut to;
  std::vector<data::BatchMemory::Block*> blocks;  // that tokens and targets keep; none where others made the memory
  std::size_t writer = 0;

  void note_writer() const {
    for (data::BatchMemory::Block* block : blocks) block->get_deleter().writer = writer;
  }
};

// Prepared batches, on a shelf for each of those who write them. Taken by any thread, without the interpreter lock.
class BatchStock {
 public:
  explicit BatchStock(std::size_t runners) : shelves_(runners) {}

  void put(std::unique_ptr<PreparedBatch> batch, std::size_t runner) {
    const std::lock_guard lock(mutex_);
    shelves_[runner].push_back(std::move(batch));
  }

  // From the runner's own shelf, or else from the fullest; nullptr: all are empty.
  std::unique_ptr<PreparedBatch> take(std::size_t runner) {
    const std::lock_guard lock(mutex_);
    auto* shelf = &shelves_[runner];
    if (shelf->empty()) {
      for (auto& other : shelves_) {
        if (other.size() > shelf->size()) shelf = &other;
      }
    }
    if (shelf->empty()) return nullptr;
    std::unique_ptr<PreparedBatch> batch = std::move(shelf->back());
    shelf->pop_back();
    return batch;
  }

  [[nodiscard]] std::size_t size(std::size_t runner) const {
    const std::lock_guard lock(mutex_);
    return shelves_[runner].size();
  }
  [[nodiscard]] std::size_t runners() const { return shelves_.size(); }

 private:
  mutable std::mutex mutex_;
  std::vector<std::vector<std::unique_ptr<PreparedBatch>>> shelves_;
};

}  // namespace fluxcore::python
