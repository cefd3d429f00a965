#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "data/order.hpp"
#include "data/radix_argsort.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {

namespace {

using Uint64Array = py::array_t<uint64_t, py::array::c_style>;
using SegmentTuple = std::tuple<uint64_t, uint64_t, bool>;  // first rank, ranks, shuffled

std::span<const uint64_t> view(const Uint64Array& array) { return {array.data(), static_cast<size_t>(array.size())}; }

std::span<uint64_t> writable(Uint64Array& array) { return {array.mutable_data(), static_cast<size_t>(array.size())}; }

std::shared_ptr<data::Order> make_order(const std::optional<Uint64Array>& ranking, uint64_t ranks,
                                        const std::vector<SegmentTuple>& segments, uint64_t seed) {
  std::vector<uint64_t> chunks;
  if (ranking) {
    chunks.assign(view(*ranking).begin(), view(*ranking).end());
  }
  std::vector<data::Segment> parts;
  parts.reserve(segments.size());
  for (const auto& [first, size, shuffled] : segments) {
    parts.push_back({first, size, shuffled ? data::Walk::kShuffled : data::Walk::kForward});
  }
  return std::make_shared<data::Order>(std::move(chunks), ranks, std::move(parts), seed);
}

Uint64Array chunks_at(const data::Order& order, uint64_t position, py::ssize_t count) {
  Uint64Array chunks(count);
  const std::span<uint64_t> out = writable(chunks);
  const py::gil_scoped_release unlocked;
  order.chunks_at(position, out);
  return chunks;
}

void radix_argsort(const Uint64Array& keys, Uint64Array permutation) {
  const std::span<const uint64_t> in = view(keys);
  const std::span<uint64_t> out = writable(permutation);
  const py::gil_scoped_release unlocked;
  if (!std::ranges::all_of(out, [&](uint64_t index) { return index < in.size(); })) {
    throw std::out_of_range("`permutation` must hold indices into the " + std::to_string(in.size()) + " `keys`");
  }
  data::radix_argsort(in, out);
}

}  // namespace

void bind_order(py::module_& module) {
  py::class_<data::Order, std::shared_ptr<data::Order>>(module, "Order", "A compiled order of chunks.")
      .def(py::init(&make_order), py::arg("ranking"), py::arg("ranks"), py::arg("segments"), py::arg("seed"))
      .def_property_readonly("epoch_size", &data::Order::epoch_size, "Positions in an epoch.")
      .def("chunks_at", &chunks_at, py::arg("position"), py::arg("count"), "Chunk ids from a position on.");
  module.def("radix_argsort", &radix_argsort, py::arg("keys"), py::arg("permutation").noconvert(),
             "Stable sort, in place, of a permutation by the keys that it points at.");
}

}  // namespace fluxcore::python
