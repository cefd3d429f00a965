#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "data/feistel.hpp"
#include "data/mixture.hpp"
#include "data/order.hpp"
#include "data/order_chain.hpp"
#include "data/order_paced.hpp"
#include "data/radix_argsort.hpp"
#include "python/bind.hpp"

namespace py = pybind11;

namespace fluxcore::python {

namespace {

using Uint64Array = py::array_t<uint64_t, py::array::c_style>;
using SegmentTuple = std::tuple<uint64_t, uint64_t, std::string, uint64_t>;      // first rank, ranks, walk, width
using LinkTuple = std::tuple<uint64_t, uint64_t, std::shared_ptr<data::Order>>;  // begin, offset, order
using OrderPointer = std::shared_ptr<data::Order>;

std::span<const uint64_t> view(const Uint64Array& array) { return {array.data(), static_cast<size_t>(array.size())}; }

std::span<uint64_t> writable(Uint64Array& array) { return {array.mutable_data(), static_cast<size_t>(array.size())}; }

Uint64Array to_array(const std::vector<uint64_t>& values) {
  return Uint64Array(static_cast<py::ssize_t>(values.size()), values.data());
}

data::Walk walk_from_name(std::string_view name) {
  constexpr std::array<std::string_view, 4> kNames = {"forward", "shuffled", "jittered", "strided"};
  const auto* const at = std::ranges::find(kNames, name);
  if (at == kNames.end()) {
    throw std::invalid_argument("a walk must be one of forward, shuffled, jittered, strided, got " + std::string(name));
  }
  return static_cast<data::Walk>(at - kNames.begin());
}

data::Ranking make_ranking(const std::optional<Uint64Array>& ranking, uint64_t ranks) {
  std::vector<uint64_t> chunks;
  if (ranking) {
    chunks.assign(view(*ranking).begin(), view(*ranking).end());
  }
  return {std::move(chunks), ranks};
}

std::shared_ptr<data::RankedOrder> make_ranked(const std::optional<Uint64Array>& ranking, uint64_t ranks,
                                               const std::vector<SegmentTuple>& segments, uint64_t seed) {
  std::vector<data::Segment> parts;
  parts.reserve(segments.size());
  for (const auto& [first, size, walk, width] : segments) {
    parts.push_back({.first = first, .size = size, .walk = walk_from_name(walk), .width = width});
  }
  return std::make_shared<data::RankedOrder>(make_ranking(ranking, ranks), std::move(parts), seed);
}

std::shared_ptr<data::PacedOrder> make_paced(const std::optional<Uint64Array>& ranking, uint64_t ranks,
                                             const std::vector<std::pair<uint64_t, uint64_t>>& pools, bool scattered,
                                             uint64_t seed) {
  std::vector<data::Pool> parts;
  parts.reserve(pools.size());
  for (const auto& [begin, size] : pools) {
    parts.push_back({.begin = begin, .size = size});
  }
  return std::make_shared<data::PacedOrder>(make_ranking(ranking, ranks), parts, scattered, seed);
}

std::shared_ptr<data::ChainOrder> make_chain(const std::vector<LinkTuple>& links, uint64_t epoch_size) {
  std::vector<data::Link> parts;
  parts.reserve(links.size());
  for (const auto& [begin, offset, order] : links) {
    parts.push_back({.begin = begin, .offset = offset, .order = order});
  }
  return std::make_shared<data::ChainOrder>(std::move(parts), epoch_size);
}

std::shared_ptr<data::MixedOrder> make_mixed(const std::vector<OrderPointer>& orders, uint64_t begin,
                                             std::vector<uint64_t> cursors, std::vector<uint32_t> weights) {
  return std::make_shared<data::MixedOrder>(
      std::vector<std::shared_ptr<const data::Order>>(orders.begin(), orders.end()), begin, std::move(cursors),
      std::move(weights));
}

Uint64Array chunks_at(const data::Order& order, uint64_t position, py::ssize_t count) {
  Uint64Array chunks(count);
  const std::span<uint64_t> out = writable(chunks);
  const py::gil_scoped_release unlocked;
  order.chunks_at(position, out);
  return chunks;
}

py::tuple places_at(const data::MixedOrder& order, uint64_t position, py::ssize_t count) {
  py::array_t<uint32_t> sources(count);
  Uint64Array positions(count);
  order.places_at(position, {sources.mutable_data(), static_cast<size_t>(count)}, writable(positions));
  return py::make_tuple(sources, positions);
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

void bind_orders(py::module_& module) {
  py::class_<data::Order, OrderPointer>(module, "Order", "A compiled order of chunks.")
      .def_property_readonly("epoch_size", &data::Order::epoch_size, "Positions in an epoch.")
      .def("chunks_at", &chunks_at, py::arg("position"), py::arg("count"), "Chunk ids from a position on.")
      .def(
          "rest_of_pass",
          [](const data::Order& order, uint64_t position) { return to_array(order.rest_of_pass(position)); },
          py::arg("position"), "Chunks that the pass in progress is missing.");
  py::class_<data::RankedOrder, data::Order, std::shared_ptr<data::RankedOrder>>(module, "RankedOrder")
      .def(py::init(&make_ranked), py::arg("ranking"), py::arg("ranks"), py::arg("segments"), py::arg("seed"));
  py::class_<data::PacedOrder, data::Order, std::shared_ptr<data::PacedOrder>>(module, "PacedOrder")
      .def(py::init(&make_paced), py::arg("ranking"), py::arg("ranks"), py::arg("pools"), py::arg("scattered"),
           py::arg("seed"))
      .def(
          "unseen", [](const data::PacedOrder& order, uint64_t end) { return to_array(order.unseen(end)); },
          py::arg("end"), "Chunks that no position before `end` visits.");
  py::class_<data::ChainOrder, data::Order, std::shared_ptr<data::ChainOrder>>(module, "ChainOrder")
      .def(py::init(&make_chain), py::arg("links"), py::arg("epoch_size"));
}

void bind_mixture(py::module_& module) {
  py::class_<data::MixedOrder, data::Order, std::shared_ptr<data::MixedOrder>>(module, "MixedOrder")
      .def(py::init(&make_mixed), py::arg("orders"), py::arg("begin"), py::arg("cursors"), py::arg("weights"))
      .def("with_weights", &data::MixedOrder::with_weights, py::arg("begin"), py::arg("weights"))
      .def("places_at", &places_at, py::arg("position"), py::arg("count"))
      .def("cursors_at", &data::MixedOrder::cursors_at, py::arg("position"))
      .def_property_readonly_static("period", [](const py::object&) { return data::Quotas::kPeriod; });
}

}  // namespace

void bind_order(py::module_& module) {
  bind_orders(module);
  bind_mixture(module);
  module.def("derive_key", &data::derive_key, py::arg("key"), py::arg("value"), "One 64-bit key out of two.");
  module.def("radix_argsort", &radix_argsort, py::arg("keys"), py::arg("permutation").noconvert(),
             "Stable sort, in place, of a permutation by the keys that it points at.");
}

}  // namespace fluxcore::python
