#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "data/batch_memory.hpp"
#include "data/loader.hpp"
#include "data/schedule.hpp"
#include "python/batch_stock.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {

namespace {

// Arrays of one row length and type, in blocks that are used again when nothing refers to them any more.
class PyBatchMemory {
 public:
  PyBatchMemory(size_t rows, size_t row_length, const std::string& dtype, size_t keep)
      : row_length_(row_length),
        type_(py::dtype(dtype)),
        out_(data::out_type_from_name(dtype)),
        memory_(data::BatchMemory::make(rows * row_length * static_cast<size_t>(type_.itemsize()), keep)) {}

  [[nodiscard]] data::OutType out() const { return out_; }

  // `block`: where to say who wrote it; valid as long as the array is.
  [[nodiscard]] py::array take(size_t rows, size_t writer = 0, data::BatchMemory::Block** taken = nullptr) const {
    const size_t bytes = rows * row_length_ * static_cast<size_t>(type_.itemsize());
    if (bytes > memory_->block_bytes()) {
      throw std::invalid_argument("`rows` must fit a block of " + std::to_string(memory_->block_bytes()) +
                                  " bytes, got " + std::to_string(rows));
    }
    using Block = data::BatchMemory::Block;
    auto block = std::make_unique<Block>(memory_->take(writer));
    std::byte* const data = block->get();
    if (taken != nullptr) *taken = block.get();
    const py::capsule owner(block.get(), [](void* held) { delete static_cast<Block*>(held); });
    [[maybe_unused]] const Block* handed_over = block.release();
    return {type_, {rows, row_length_}, data, owner};
  }

 private:
  size_t row_length_;
  py::dtype type_;
  data::OutType out_;
  std::shared_ptr<data::BatchMemory> memory_;
};

// A loader that keeps some batches of a plan in work, and holds on to their memory until they are handed over.
class PyLoader {
 public:
  using Plan = std::vector<std::pair<uint64_t, size_t>>;  // of each batch, its first position and its rows

  PyLoader(std::shared_ptr<data::ShardSet> shards, std::shared_ptr<data::Order> order, bool verify, size_t threads,
           size_t in_work, size_t sight, std::shared_ptr<PyBatchMemory> memory, bool targets, py::object wrap,
           py::object allocate, py::object nothing, bool drop_behind)
      : in_work_(in_work),
        memory_(std::move(memory)),
        targets_(targets),
        wrap_(std::move(wrap)),
        allocate_(std::move(allocate)),
        nothing_(std::move(nothing)),
        rows_(py::len(nothing_)),
        stock_(threads + 1),
        schedule_(in_work, sight),
        loader_(std::move(shards), std::move(order), verify, threads, drop_behind) {}

  void plan(const Plan& batches) {
    std::vector<data::Rows> rows;
    rows.reserve(batches.size());
    for (const auto& [position, count] : batches) rows.push_back({.position = position, .count = count});
    schedule_.extend(rows);
    ask();
  }

  py::tuple next() {
    if (reading_) {
      throw std::invalid_argument(
          "another thread is reading from this loader\n\nGive each thread a loader of its own, by rank and world_size "
          "if"
          " they share the batches, or let one thread read for all.");
    }
    std::exception_ptr error;
    reading_ = true;
    {
      const py::gil_scoped_release unlocked;
      try {
        loader_.next();
      } catch (...) {
        error = std::current_exception();
      }
    }
    reading_ = false;
    std::unique_ptr<PreparedBatch> batch;
    if (!held_.empty()) {
      batch = std::move(held_.front());
      held_.pop_front();
    }
    ask();
    if (error) std::rethrow_exception(error);
    batch->note_writer();
    return py::make_tuple(batch->ids, batch->tokens, batch->targets);
  }

 private:
  // Some batches at a time: what making them takes comes from far memory, since copying a batch fills the caches.
  void ask() {
    if (held_.size() > in_work_ / 2) return;
    fill_shelves();
    while (held_.size() < in_work_) {
      std::optional<data::Schedule::Batch> batch = schedule_.next();
      if (!batch) return;
      const data::Rows rows = batch->rows;
      if (rows.count != rows_) {
        held_.push_back(prepare(rows.count, 0));
      } else {
        held_.emplace_back();
        ++from_stock_;
        while (prepared_ < from_stock_) put(0);
      }
      // A deque's elements stay where they are.
      std::unique_ptr<PreparedBatch>& held = held_.back();
      const auto where = [this, &held](size_t runner) {
        if (!held) held = stock_.take(runner);
        held->writer = runner;
        return held->to;
      };
      loader_.submit(rows.position, where, std::move(batch->ahead));
    }
  }

  // So that whoever is faster than the others finds memory that it wrote before.
  void fill_shelves() {
    for (size_t runner = 0; runner < stock_.runners(); ++runner) {
      while (stock_.size(runner) <= in_work_ / 2) put(runner);
    }
  }

  void put(size_t runner) {
    stock_.put(prepare(rows_, runner), runner);
    ++prepared_;
  }

  [[nodiscard]] std::unique_ptr<PreparedBatch> prepare(size_t rows, size_t runner) const {
    auto batch = std::make_unique<PreparedBatch>();
    py::array_t<int64_t> ids(static_cast<py::ssize_t>(rows));
    batch->to.chunk_ids = {reinterpret_cast<uint64_t*>(ids.mutable_data()), rows};
    batch->to.out.type = memory_->out();
    batch->ids = std::move(ids);
    if (!allocate_.is_none()) {
      const auto [tokens, tokens_at, targets, targets_at] =
          allocate_(rows).cast<std::tuple<py::object, uintptr_t, py::object, uintptr_t>>();
      // The addresses are those of the tensors, and only Python knows them.
      // NOLINTBEGIN(performance-no-int-to-ptr)
      batch->to.out.tokens = reinterpret_cast<void*>(tokens_at);
      batch->to.out.targets = reinterpret_cast<void*>(targets_at);
      // NOLINTEND(performance-no-int-to-ptr)
      batch->tokens = tokens;
      batch->targets = targets_ ? targets : no_targets(rows);
      return batch;
    }
    const auto take = [&](void*& at) {
      data::BatchMemory::Block* block = nullptr;
      py::array rows_of_memory = memory_->take(rows, runner, &block);
      at = rows_of_memory.mutable_data();
      batch->blocks.push_back(block);
      return wrap_(std::move(rows_of_memory));
    };
    batch->tokens = take(batch->to.out.tokens);
    batch->targets = targets_ ? take(batch->to.out.targets) : no_targets(rows);
    return batch;
  }

  // What is handed out in place of targets: `nothing`, or its first rows.
  [[nodiscard]] py::object no_targets(size_t rows) const {
    if (rows == rows_) return nothing_;
    return nothing_[py::slice(0, static_cast<py::ssize_t>(rows), 1)];
  }

  size_t in_work_;
  std::shared_ptr<PyBatchMemory> memory_;
  bool targets_;
  py::object wrap_;
  py::object allocate_;
  py::object nothing_;
  size_t rows_;           // of all batches but perhaps the last
  bool reading_ = false;  // whether a thread is in `next`; changed under the interpreter lock
  BatchStock stock_;
  size_t prepared_ = 0;    // batches put into stock so far
  size_t from_stock_ = 0;  // batches in work, now or before, that take theirs from it
  data::Schedule schedule_;
  std::deque<std::unique_ptr<PreparedBatch>> held_;  // of the batches in work; empty until one is begun
  data::Loader loader_;  // last: destroyed, and its threads joined, before their memory is let go
};

}  // namespace

void bind_loader(py::module_& module) {
  py::class_<PyBatchMemory, std::shared_ptr<PyBatchMemory>>(
      module, "BatchMemory", "Memory of batches that nobody refers to any more, used again.")
      .def(py::init<size_t, size_t, const std::string&, size_t>(), py::arg("rows"), py::arg("row_length"),
           py::arg("dtype"), py::arg("keep"))
      .def(
          "take", [](const PyBatchMemory& memory, size_t rows) { return memory.take(rows); }, py::arg("rows"),
          "An array [rows, row_length] of any contents.");
  py::class_<PyLoader>(module, "Loader", "Fills batches ahead of their use and hands them over in order.")
      .def(py::init<std::shared_ptr<data::ShardSet>, std::shared_ptr<data::Order>, bool, size_t, size_t, size_t,
                    std::shared_ptr<PyBatchMemory>, bool, py::object, py::object, py::object, bool>(),
           py::arg("shards"), py::arg("order"), py::kw_only(), py::arg("verify"), py::arg("threads"),
           py::arg("in_work"), py::arg("sight"), py::arg("memory"), py::arg("targets"), py::arg("wrap"),
           py::arg("allocate"), py::arg("nothing"), py::arg("drop_behind"),
           "`in_work` batches are asked for, half of them or more at a time, and the `sight` after them announced."
           " Arrays of `memory` are handed out as wrap(array). Where `allocate` is not None, allocate(rows) gives"
           " tokens, their address, targets and theirs, of the type of `memory`. `nothing` [rows, 0] stands for"
           " targets that are not wanted; all batches have as many rows, but for short ones.")
      .def("plan", &PyLoader::plan, py::arg("batches"),
           "Go on with these batches of the order: the first position of each, and its rows.")
      .def("next", &PyLoader::next,
           "Wait for the oldest batch asked for: its chunk ids, tokens and targets; and ask for more.");
}

}  // namespace fluxcore::python
