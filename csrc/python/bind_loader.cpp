#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "data/batch_memory.hpp"
#include "data/describe.hpp"
#include "data/loader.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {

namespace {

// A loader that holds on to the Python objects that own a batch's memory until the batch is handed over.
class PyLoader {
 public:
  PyLoader(std::shared_ptr<data::ShardSet> shards, std::shared_ptr<data::Order> order, bool verify, size_t threads)
      : loader_(std::move(shards), std::move(order), verify, threads) {}

  // `facts` is the address of [1 + kDescribed, rows] int64: chunk ids, then what `describe_chunks` says of them.
  void submit(uint64_t position, size_t rows, uintptr_t facts, const std::string& out, uintptr_t tokens,
              uintptr_t targets, py::object owner, const std::vector<std::pair<uint64_t, size_t>>& ahead) {
    // The addresses are those of the owner's tensors, and only Python knows them.
    // NOLINTBEGIN(performance-no-int-to-ptr)
    const std::span<uint64_t> ids(reinterpret_cast<uint64_t*>(facts), rows);
    const std::span<int64_t> described(reinterpret_cast<int64_t*>(facts) + rows, data::kDescribed * rows);
    const data::GatherOut destination{.type = data::out_type_from_name(out),
                                      .tokens = reinterpret_cast<void*>(tokens),
                                      .targets = reinterpret_cast<void*>(targets)};
    // NOLINTEND(performance-no-int-to-ptr)
    std::vector<data::Rows> windows;
    windows.reserve(ahead.size());
    for (const auto& [first, count] : ahead) windows.push_back({.position = first, .count = count});
    owners_.push_back(std::move(owner));
    loader_.submit(position, ids, described, destination, std::move(windows));
  }

  py::object next() {
    py::object owner = py::none();
    if (!owners_.empty()) {
      owner = std::move(owners_.front());
      owners_.pop_front();
    }
    {
      const py::gil_scoped_release unlocked;
      loader_.next();
    }
    return owner;
  }

 private:
  std::deque<py::object> owners_;
  data::Loader loader_;  // last: destroyed, and its threads joined, before their memory is let go
};

// Arrays of one row length and type, in blocks that are used again when nothing refers to them any more.
class PyBatchMemory {
 public:
  PyBatchMemory(size_t rows, size_t row_length, const std::string& dtype, size_t keep)
      : row_length_(row_length),
        type_(py::dtype(dtype)),
        memory_(data::BatchMemory::make(rows * row_length * static_cast<size_t>(type_.itemsize()), keep)) {}

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
  std::shared_ptr<data::BatchMemory> memory_;
};

}  // namespace

void bind_loader(py::module_& module) {
  py::class_<PyLoader>(module, "Loader", "Fills batches ahead of their use and hands them over in order.")
      .def(py::init<std::shared_ptr<data::ShardSet>, std::shared_ptr<data::Order>, bool, size_t>(), py::arg("shards"),
           py::arg("order"), py::arg("verify"), py::arg("threads"))
      .def("submit", &PyLoader::submit, py::arg("position"), py::arg("rows"), py::arg("facts"), py::arg("out"),
           py::arg("tokens"), py::arg("targets"), py::arg("owner"), py::arg("ahead"),
           "Ask for rows of the order, to be written to these addresses, which `owner` keeps valid; and announce rows"
           " (position, count) that will be asked for later.")
      .def("next", &PyLoader::next, "Wait for the oldest batch asked for; returns its `owner`.");
  py::class_<PyBatchMemory>(module, "BatchMemory", "Memory of batches that nobody refers to any more, used again.")
      .def(py::init<size_t, size_t, const std::string&, size_t>(), py::arg("rows"), py::arg("row_length"),
           py::arg("dtype"), py::arg("keep"))
      .def("take", &PyBatchMemory::take, py::arg("rows"), "An array [rows, row_length] of any contents.");
}

}  // namespace fluxcore::python
