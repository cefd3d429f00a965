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

  [[nodiscard]] py::array take(size_t rows) const {
    const size_t bytes = rows * row_length_ * static_cast<size_t>(type_.itemsize());
    if (bytes > memory_->block_bytes()) {
      throw std::invalid_argument("`rows` must fit a block of " + std::to_string(memory_->block_bytes()) +
                                  " bytes, got " + std::to_string(rows));
    }
    using Block = data::BatchMemory::Block;
    auto block = std::make_unique<Block>(memory_->take());
    std::byte* const data = block->get();
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

// Where a batch is written, and what owns the memory.
struct Destination {
  data::GatherOut out;
  py::object tokens;
  py::object targets;
};

// A loader that keeps some batches of a plan in work, and holds on to their memory until they are handed over.
class PyLoader {
 public:
  using Plan = std::vector<std::pair<uint64_t, size_t>>;  // of each batch, its first position and its rows

  PyLoader(std::shared_ptr<data::ShardSet> shards, std::shared_ptr<data::Order> order, bool verify, size_t threads,
           size_t in_work, size_t sight, std::shared_ptr<PyBatchMemory> memory, bool targets, py::object allocate,
           bool drop_behind)
      : in_work_(in_work),
        memory_(std::move(memory)),
        targets_(targets),
        allocate_(std::move(allocate)),
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
    Held batch;
    if (!held_.empty()) {
      batch = std::move(held_.front());
      held_.pop_front();
    }
    std::exception_ptr error;
    {
      const py::gil_scoped_release unlocked;
      try {
        loader_.next();
      } catch (...) {
        error = std::current_exception();
      }
    }
    ask();
    if (error) std::rethrow_exception(error);
    return py::make_tuple(std::move(batch.ids), std::move(batch.to.tokens), std::move(batch.to.targets));
  }

 private:
  struct Held {
    py::object ids;
    Destination to;
  };

  void ask() {
    while (held_.size() < in_work_) {
      std::optional<data::Schedule::Batch> batch = schedule_.next();
      if (!batch) return;
      const data::Rows rows = batch->rows;
      py::array_t<int64_t> ids(static_cast<py::ssize_t>(rows.count));
      const std::span<uint64_t> chunk_ids(reinterpret_cast<uint64_t*>(ids.mutable_data()), rows.count);
      held_.push_back({.ids = std::move(ids), .to = destination(rows.count)});
      loader_.submit(rows.position, chunk_ids, held_.back().to.out, std::move(batch->ahead));
    }
  }

  [[nodiscard]] Destination destination(size_t rows) const {
    if (!allocate_.is_none()) {
      const auto [tokens, tokens_at, targets, targets_at] =
          allocate_(rows).cast<std::tuple<py::object, uintptr_t, py::object, uintptr_t>>();
      // The addresses are those of the tensors, and only Python knows them.
      // NOLINTBEGIN(performance-no-int-to-ptr)
      return {.out = {.type = memory_->out(),
                      .tokens = reinterpret_cast<void*>(tokens_at),
                      .targets = reinterpret_cast<void*>(targets_at)},
              .tokens = tokens,
              .targets = targets};
      // NOLINTEND(performance-no-int-to-ptr)
    }
    py::array tokens = memory_->take(rows);
    Destination to{.out = {.type = memory_->out(), .tokens = tokens.mutable_data(), .targets = nullptr},
                   .tokens = std::move(tokens),
                   .targets = py::none()};
    if (targets_) {
      py::array targets = memory_->take(rows);
      to.out.targets = targets.mutable_data();
      to.targets = std::move(targets);
    }
    return to;
  }

  size_t in_work_;
  std::shared_ptr<PyBatchMemory> memory_;
  bool targets_;
  py::object allocate_;
  data::Schedule schedule_;
  std::deque<Held> held_;
  data::Loader loader_;  // last: destroyed, and its threads joined, before their memory is let go
};

}  // namespace

void bind_loader(py::module_& module) {
  py::class_<PyBatchMemory, std::shared_ptr<PyBatchMemory>>(
      module, "BatchMemory", "Memory of batches that nobody refers to any more, used again.")
      .def(py::init<size_t, size_t, const std::string&, size_t>(), py::arg("rows"), py::arg("row_length"),
           py::arg("dtype"), py::arg("keep"))
      .def("take", &PyBatchMemory::take, py::arg("rows"), "An array [rows, row_length] of any contents.");
  py::class_<PyLoader>(module, "Loader", "Fills batches ahead of their use and hands them over in order.")
      .def(py::init<std::shared_ptr<data::ShardSet>, std::shared_ptr<data::Order>, bool, size_t, size_t, size_t,
                    std::shared_ptr<PyBatchMemory>, bool, py::object, bool>(),
           py::arg("shards"), py::arg("order"), py::kw_only(), py::arg("verify"), py::arg("threads"),
           py::arg("in_work"), py::arg("sight"), py::arg("memory"), py::arg("targets"), py::arg("allocate"),
           py::arg("drop_behind"),
           "`in_work` batches are asked for at a time, and the `sight` after them announced. Where `allocate` is not"
           " None, allocate(rows) gives tokens, their address, targets and theirs, of the type of `memory`.")
      .def("plan", &PyLoader::plan, py::arg("batches"),
           "Go on with these batches of the order: the first position of each, and its rows.")
      .def("next", &PyLoader::next,
           "Wait for the oldest batch asked for: its chunk ids, tokens, and targets or None; and ask for another.");
}

}  // namespace fluxcore::python
